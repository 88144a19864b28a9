"""Measure collectives and pairs of devices with one process (rank) for each device."""
