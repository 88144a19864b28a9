"""What healthy GPUs of each SKU reach, from published fleets and measurements."""
