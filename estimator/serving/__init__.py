"""Predict a server: the scheduler, the time of a step, memory, and the load on it."""
