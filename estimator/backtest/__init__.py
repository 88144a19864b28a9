"""Predictions against measurements of real servers: tables, load tools, errors, causes."""
