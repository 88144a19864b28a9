"""Verify predictions: predict a model, hash the prediction, run the model, and compare."""
