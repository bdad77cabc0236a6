"""Images of what a detector sees, answers and gets wrong."""
