"""Annotations as people have them: four formats read and written, and the faults in them."""
