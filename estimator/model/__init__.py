"""Read a model's configuration: its sizes, parameter counts and weight formats."""
