"""Fit laws to measured points, estimate their error, and scale them to devices without data."""
