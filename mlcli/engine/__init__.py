"""The one trainer and what it stands on; it knows no task."""
