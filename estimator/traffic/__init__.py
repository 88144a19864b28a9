"""Recorded traffic: traces of real requests, and the prefix cache that they meet."""
