"""What a person sees: tables in the terminal, plots, results in a notebook."""
