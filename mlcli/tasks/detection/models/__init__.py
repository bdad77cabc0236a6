"""Step 1, sets of functions that find objects: the detectors and their parts."""
