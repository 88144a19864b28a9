"""Run the node check on many nodes through a launcher, and measure suspected nodes again."""
