"""Everything that is odd about a data set, found in one pass before anything is trained on it."""
