"""The trainer and its parts: checkpoints, schedules, logging, run folders. Independent of the task."""
