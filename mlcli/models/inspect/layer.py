"""What is known of one layer of a model taken apart: its window, its shapes and what it costs."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import nn

from mlcli.models.inspect.receptive import Field

Sides = tuple[int, ...]
OWN = "(own)"
"""Kind of the row for what a module with children has or computes before it calls them, such as a class token."""


@dataclass(frozen=True)
class Layer:
    """One call of an innermost module.

    name: of the module, as in `named_modules` without the `net.` of `Normalized`.
    kind: its class.
    input_shape, output_shape: of one sample, without the batch; () if it takes or gives no tensor.
    kernel, stride, padding, dilation: of a window, in pixels; padding may be the word "same". None without a window.
    groups: of a convolution's channels; 1 otherwise.
    neurons: outputs of one sample, where weights make them: convolutions and linear layers; 0 otherwise.
    parameters, trainable: numbers in its tensors, and those that learn; 0 in a second call of the same module.
    flops: of one sample, forward only.
    field: what one output position sees; None for data without pixels and where nobody can say.
    saved_bytes: kept for the backward pass, for the whole batch.
    """

    name: str
    kind: str
    input_shape: Sides = ()
    output_shape: Sides = ()
    kernel: Sides | None = None
    stride: Sides | None = None
    padding: Sides | str | None = None
    dilation: Sides | None = None
    ceil: bool = False
    groups: int = 1
    neurons: int = 0
    parameters: int = 0
    trainable: int = 0
    flops: float = 0.0
    field: Field | None = None
    saved_bytes: float = 0.0


def with_window(layer: Layer, module: nn.Module) -> Layer:
    """The layer with the kernel it slides over the image, or the neurons it has."""
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        layer = replace(layer, neurons=prod(layer.output_shape), groups=getattr(module, "groups", 1))
    if not hasattr(module, "kernel_size"):
        return layer
    dimensions = max(1, len(layer.output_shape) - 1)
    padding = getattr(module, "padding", 0)
    return replace(
        layer,
        kernel=_sides(module.kernel_size, dimensions),
        stride=_sides(module.stride, dimensions),
        padding=padding if isinstance(padding, str) else _sides(padding, dimensions),
        dilation=_sides(getattr(module, "dilation", 1), dimensions),
        ceil=getattr(module, "ceil_mode", False),
    )


def _sides(value: Any, dimensions: int) -> Sides:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * dimensions
