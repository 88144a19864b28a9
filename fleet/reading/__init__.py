"""Read the tables that people have, with any separator, encoding, header and shape."""
