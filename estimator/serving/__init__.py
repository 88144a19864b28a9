"""Predict an inference server: its scheduler, step times, memory and load."""
