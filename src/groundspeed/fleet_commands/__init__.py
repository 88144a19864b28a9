"""The commands of ``groundspeed fleet``, one a file."""
