"""Device memory kernels: streams, page gathers, working sets and the latency of one load."""
