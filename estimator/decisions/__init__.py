"""Tools built on predictions: plan a deployment, compare options, audit a claim."""
