"""Keep the results of runs, and compare each unit with its own past."""
