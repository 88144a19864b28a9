"""Launch overhead of a device: one kernel launch, and one decoder layer of small operations."""
