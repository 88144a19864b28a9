"""Run a calibration: the device, the campaign, its journal, and the profile it becomes."""
