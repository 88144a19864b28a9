"""Read a model: its configuration, its sizes, its parameters and its weight formats."""
