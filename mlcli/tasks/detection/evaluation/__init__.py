"""Evaluation of detectors: matching with the ground truth, average precision, COCO's numbers, kinds of mistakes."""
