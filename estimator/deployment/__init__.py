"""How a model is deployed: parallelism, formats, memory, and the server built from names."""
