"""Run a calibration: open the device, measure and journal the cases, and build the profile."""
