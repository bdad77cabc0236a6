"""Examination of a data set before training: damage, duplicates, leaks, labels and balance, in one pass."""
