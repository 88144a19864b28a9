"""Links: collectives between devices, symmetric memory, and the link to the host."""
