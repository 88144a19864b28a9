"""The grouped matrix products of a mixture of experts."""
