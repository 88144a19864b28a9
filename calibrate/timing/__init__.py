"""Time one case: timers, sampling, the stopping rule, statistics and telemetry."""
