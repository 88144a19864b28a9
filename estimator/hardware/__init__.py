"""Predict operator times from the laws of a profile or from the peaks of a datasheet."""
