"""What ``groundspeed estimate`` does: which load, how it is parsed, predicted and shown."""
