"""From a run to one file that other programs can use: written, verified beside the model, and read again."""
