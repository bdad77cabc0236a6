"""Annotation files: four formats read and written, and the faults in them."""
