"""A complete decoder model with random weights, and the elementwise operations it consists of."""
