"""Matrix products: torch's library, narrow data types, and our own kernel in Triton."""
