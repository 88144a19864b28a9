"""Store the results of fleet runs, and compare each GPU, node and class with its own past."""
