"""Attention kernels: prefill and decode through torch, decode over a paged KV cache in Triton."""
