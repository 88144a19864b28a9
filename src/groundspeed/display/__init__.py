"""Show results: tables in the terminal, plots, and displays in a notebook."""
