"""Attention: prefill by torch's library, decode over a paged KV cache in Triton."""
