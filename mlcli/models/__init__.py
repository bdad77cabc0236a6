"""Step 1, the sets of functions shared by tasks."""
