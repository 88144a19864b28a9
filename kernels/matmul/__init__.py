"""GEMM kernels: through torch, in low-precision data types, and a kernel of our own in Triton."""
