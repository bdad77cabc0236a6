"""Analysis of models: output, cost and receptive field of each layer."""
