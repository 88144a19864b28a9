"""Measure collectives and point-to-point transfers with one process (rank) per device."""
