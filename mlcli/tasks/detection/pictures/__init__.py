"""Pictures of a detector's inputs, answers and mistakes."""
