"""What the commands that measure share: one device, all devices, all ranks, the machine."""
