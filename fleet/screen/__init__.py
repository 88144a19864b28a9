"""Screen a fleet: score each measurement, name the cause of each loss, and estimate its cost."""
