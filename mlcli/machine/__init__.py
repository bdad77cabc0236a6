"""What this machine is, and whether it can do the work."""
