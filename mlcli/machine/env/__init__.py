"""env-check: from the facts of a machine to findings, one verdict and one command to type."""
