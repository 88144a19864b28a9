"""The commands of ``groundspeed fleet``: a file for each, or for a few that belong together."""
