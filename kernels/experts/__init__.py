"""Grouped GEMM kernels of a mixture-of-experts (MoE) layer."""
