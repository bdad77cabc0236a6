"""The HTML page about a run: one file that needs no network."""
