"""Annotated images: formats, faults, augmentation, batches."""
