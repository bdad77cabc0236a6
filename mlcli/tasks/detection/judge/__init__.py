"""How good a detector is: matching, average precision, COCO's numbers, kinds of errors."""
