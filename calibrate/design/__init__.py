"""Choose what to measure: the plan of cases, the selection of points, searches for the best."""
