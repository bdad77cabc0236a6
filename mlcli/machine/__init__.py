"""Checks of the machine: env-check and bench-io."""
