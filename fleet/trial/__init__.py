"""Fleets with known faults, and the rules of other tools, to try the screening on them."""
