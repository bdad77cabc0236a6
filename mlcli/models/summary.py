"""How large a model is. What it is called is said by its config: `model.describe(info)`."""

from torch import nn


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained; shared ones count once."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, _ in counts), sum(count for count, trainable in counts if trainable)


def megabytes(model: nn.Module) -> float:
    """Memory of parameters and buffers in MB (10**6 bytes), gradients and optimizer state not included."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6
