"""What it costs to start work on a device: one launch, and one layer of small operations."""
