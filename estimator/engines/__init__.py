"""Constants of inference engines, by version and platform."""
