"""Predict a model, seal the prediction, run the model, and compare."""
