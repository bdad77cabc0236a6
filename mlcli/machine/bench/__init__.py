"""bench-io: stages, loader and model measured, then a verdict and advice."""
