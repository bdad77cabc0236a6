"""The detectors and their parts: step 1, sets of functions that find objects."""
