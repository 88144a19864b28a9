"""Starts the node's program on many nodes, through an engine that is there already."""
