"""Regression: a number for each row."""
