"""Calibrate a serving engine: load on a live server in, the constants of the engine out."""
