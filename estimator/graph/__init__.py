"""Describe what one step of a model computes, as a list of operators."""
