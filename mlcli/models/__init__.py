"""Models shared by the tasks: step 1, the sets of functions that are searched."""
