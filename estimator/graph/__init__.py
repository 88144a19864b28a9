"""Describe one step of a model as a list of operators."""
