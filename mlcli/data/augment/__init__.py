"""Augmentation: random changes to a whole batch of training images at once, each sample by its own amounts.

What a sample gets depends on its key and nothing else (see `randomness`), except for mixup and CutMix, which need the
rest of the batch.
"""
