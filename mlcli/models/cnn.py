"""Convolutional networks as a list of blocks (LeCun et al. 1998); shapes by Dumoulin & Visin 2016, arXiv:1603.07285.

    CNN([conv(6, kernel=5), pool(), conv(16, kernel=5, padding=0), pool(), linear(120), linear(84)],
        image=(1, 28, 28), outputs=10)

A block is a function of the shape of one sample that arrives, (C, H, W) or, flattened, (F,): it returns its module and
the shape that leaves it, so that a block that does not fit is named before the first image is read.
`blocks.5.conv.weight` belongs to `model.blocks.5` in the YAML.
"""

from collections.abc import Callable, Sequence
from math import prod

from torch import Tensor, nn

from mlcli.errors import ConfigError
from mlcli.models import layers
from mlcli.text import sides

Shape = tuple[int, ...]
Block = Callable[[Shape], tuple[nn.Module, Shape]]


class CNN(nn.Module):
    """Blocks, flattened if they are not yet, and one linear layer: [B, C, H, W] -> [B, outputs].

    Args:
        blocks: from input to output, as `conv`, `pool`, `global_pool`, `dropout`, `flatten` and `linear` make them.
        image: (C, H, W) of the images.
        init: scheme of the first weights, see `layers.initialise`.

    Raises ConfigError naming the first block that does not fit its input.
    """

    def __init__(self, blocks: Sequence[Block], *, image: Shape, outputs: int, init: str = "default") -> None:
        super().__init__()
        self.blocks, shape = nn.Sequential(), image
        for index, block in enumerate(blocks):
            try:
                module, shape = block(shape)
            except _Misfit as misfit:
                what = f"block {index} ({misfit.block}) does not fit its input {sides(shape)}: {misfit}"
                raise ConfigError(what, where=f"model.blocks.{index}", fix=misfit.fix) from None
            self.blocks.append(module)
        self.output = nn.Linear(prod(shape), outputs)
        layers.initialise(self, init)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(images)  # [B, C, H, W] or [B, F]
        return self.output(features.flatten(1))  # [B, outputs]


def conv(
    channels: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    padding: int | str = "same",
    dilation: int = 1,
    groups: int = 1,
    batch_norm: bool = False,
    activation: str = "relu",
) -> Block:
    """Convolution, then normalisation, then activation: (C, H, W) -> (channels, H', W').

    padding: pixels on each side, or same, which keeps height and width at stride 1.
    """

    def build(shape: Shape) -> tuple[nn.Module, Shape]:
        arriving, height, width = _image(shape, "conv")
        for what, count in (("input", arriving), ("output", channels)):
            if count % groups:
                problem = f"{count} {what} channels do not divide into {groups} groups"
                raise _Misfit("conv", problem, fix=f"choose groups that divide both {arriving} and {channels}")
        around = padding
        if around == "same":
            # It stays a word where both sides would be uneven, which PyTorch can do at stride 1 only.
            around, uneven = divmod(dilation * (kernel - 1), 2)
            if uneven and stride > 1:
                problem = f"an even kernel ({kernel}) has no equal padding on both sides at stride {stride}"
                raise _Misfit("conv", problem, fix=f"use kernel {kernel + 1}, or set padding: {around}")
            around = "same" if uneven else around
        if isinstance(around, int):
            height, width = _slid("conv", shape, kernel, stride, around, dilation)
        parts = nn.Sequential()
        parts.add_module(
            "conv",
            nn.Conv2d(
                arriving,
                channels,
                kernel,
                stride=stride,
                padding=around,
                dilation=dilation,
                groups=groups,
                bias=not batch_norm,  # the batch's mean, which the norm subtracts, contains it
            ),
        )
        if batch_norm:
            parts.add_module("norm", nn.BatchNorm2d(channels))
        parts.add_module("activation", layers.activation(activation))
        return parts, (channels, height, width)

    return build


def pool(*, kind: str = "max", kernel: int = 2, stride: int | None = None, padding: int = 0) -> Block:
    """The largest value (max) or the mean (avg) of each window; windows touch unless a stride is given."""

    def build(shape: Shape) -> tuple[nn.Module, Shape]:
        channels, _, _ = _image(shape, "pool")
        if padding > kernel // 2:
            problem = f"padding {padding} is more than half of kernel {kernel}"
            raise _Misfit("pool", problem, fix=f"use padding {kernel // 2} or less")
        height, width = _slid("pool", shape, kernel, stride or kernel, padding)
        layer = nn.MaxPool2d if kind == "max" else nn.AvgPool2d
        return layer(kernel, stride or kernel, padding), (channels, height, width)

    return build


def global_pool(*, kind: str = "avg") -> Block:
    """The mean (Lin et al. 2014) or largest value of each channel: (C, H, W) -> (C,)."""

    def build(shape: Shape) -> tuple[nn.Module, Shape]:
        channels, _, _ = _image(shape, "global_pool")
        layer = nn.AdaptiveAvgPool2d(1) if kind == "avg" else nn.AdaptiveMaxPool2d(1)
        return nn.Sequential(layer, nn.Flatten()), (channels,)

    return build


def dropout(p: float = 0.5) -> Block:
    """Silence random values while training, or whole channels before flattening."""
    # Neighbouring pixels say nearly the same, so whole maps are dropped (Tompson et al. 2015, section 3.2).
    return lambda shape: ((nn.Dropout2d if len(shape) == 3 else nn.Dropout)(p), shape)


def flatten() -> Block:
    """(C, H, W) -> (C * H * W,)"""
    return lambda shape: (nn.Flatten(), (prod(shape),))


def linear(features: int, *, batch_norm: bool = False, activation: str = "relu") -> Block:
    """A fully connected layer, then normalisation, then activation; flattens its input if need be: -> (features,)."""

    def build(shape: Shape) -> tuple[nn.Module, Shape]:
        parts = nn.Sequential()
        if len(shape) == 3:
            parts.add_module("flatten", nn.Flatten())  # [B, C * H * W]
        parts.add_module("linear", nn.Linear(prod(shape), features, bias=not batch_norm))
        if batch_norm:
            parts.add_module("norm", nn.BatchNorm1d(features))
        parts.add_module("activation", layers.activation(activation))
        return parts, (features,)

    return build


def conv_output_side(side: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Pixels that come out of a convolution or pooling along one side; below 1 if the kernel does not fit.

    floor((side + 2 padding - dilation (kernel - 1) - 1) / stride) + 1 (Dumoulin & Visin, relationship 15)
    """
    return (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


class _Misfit(Exception):
    """A block does not fit the shape that arrives; says why, and what to change."""

    def __init__(self, block: str, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.block, self.fix = block, fix


def _image(shape: Shape, block: str) -> tuple[int, int, int]:
    """(C, H, W); an error if an earlier block has flattened the image."""
    if len(shape) != 3:
        problem = f"{block} needs channels x height x width, but the image is flattened already"
        raise _Misfit(block, problem, fix="move it before the first flatten or linear block")
    channels, height, width = shape
    return channels, height, width


def _slid(block: str, shape: Shape, kernel: int, stride: int, padding: int, dilation: int = 1) -> tuple[int, int]:
    """Height and width after sliding a window over (C, H, W); an error if it does not fit in."""
    height, width = (conv_output_side(side, kernel, stride, padding, dilation) for side in shape[1:])
    if min(height, width) < 1:
        reach = dilation * (kernel - 1) + 1
        problem = f"its kernel spans {reach} pixels, the padded side has {min(shape[1:]) + 2 * padding}"
        fix = "use a smaller kernel, more padding, fewer pool blocks before it, or larger images"
        raise _Misfit(block, problem, fix)
    return height, width
