"""A whole decoder with random weights, and the elementwise operations inside it."""
