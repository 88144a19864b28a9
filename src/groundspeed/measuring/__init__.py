"""Measure on this machine: one device, several devices, several ranks; check what it can do."""
