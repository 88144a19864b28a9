"""Decide with predictions: plan, compare, audit a claim, and backtest against measurements."""
