"""Find the slow node or link from measurements of pairs of nodes."""
