"""Choose what to measure: the plan of cases, the choice of points, the search for best shapes."""
