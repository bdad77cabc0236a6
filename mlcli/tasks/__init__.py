"""The tasks, one package each: data, model, loss, metrics and pictures."""
