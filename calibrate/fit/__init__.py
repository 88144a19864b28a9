"""Fit laws to measured points, transfer them to devices nobody measured, check their errors."""
