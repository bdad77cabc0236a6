"""Convolutional networks as a list of blocks (LeCun et al. 1998); shapes by Dumoulin & Visin 2016, arXiv:1603.07285.

`blocks.5.conv.weight` belongs to `model.blocks.5` in the YAML. The shape is followed from block to block, so that a
block that does not fit is named before the first image is read.
"""

from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from mlcli.data.info import DataInfo
from mlcli.errors import ConfigError
from mlcli.models.config import (
    Block,
    Cnn,
    ConvBlock,
    DenseBlock,
    DropoutBlock,
    FlattenBlock,
    GlobalPoolBlock,
    PoolBlock,
)
from mlcli.models.init import initialise
from mlcli.models.layers import activation, image_shape
from mlcli.text import sides

Shape = tuple[int, ...]


def conv_output_side(side: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Pixels that come out of a convolution or pooling along one side; below 1 if the kernel does not fit.

    floor((side + 2 padding - dilation (kernel - 1) - 1) / stride) + 1 (Dumoulin & Visin, relationship 15)
    """
    return (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


class ConvolutionalNet(nn.Module):
    """Blocks, flattened if they are not yet, and one linear layer: [B, C, H, W] -> [B, outputs]."""

    def __init__(self, blocks: nn.Sequential, features: int, num_outputs: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.output = nn.Linear(features, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(images)  # [B, C, H, W] or [B, F]
        return self.output(features.flatten(1))  # [B, outputs]


def cnn(config: Cnn, info: DataInfo) -> nn.Module:
    """Build the list of blocks. Raises ConfigError naming the first block that does not fit its input."""
    shape: Shape = image_shape(info, config.name)
    blocks = nn.Sequential()
    for index, block in enumerate(config.blocks):
        module, shape = _build(block, Place(index, block.name, shape))
        blocks.append(module)
    net = ConvolutionalNet(blocks, prod(shape), info.num_outputs)
    initialise(net, config.init)
    return net


@dataclass(frozen=True)
class Place:
    """A block's place in the list and the shape (C, H, W) or (F,) that arrives there."""

    index: int
    block: str
    shape: Shape

    def misfit(self, problem: str, fix: str) -> ConfigError:
        arrives = sides(self.shape)
        return ConfigError(
            f"block {self.index} ({self.block}) does not fit its input {arrives}: {problem}",
            where=f"model.blocks.{self.index}",
            fix=fix,
        )

    def image(self) -> tuple[int, int, int]:
        """The input's (C, H, W); an error if an earlier block has flattened it."""
        if len(self.shape) != 3:
            raise self.misfit(
                f"{self.block} needs channels x height x width, but the image is flattened already",
                fix="move it before the first flatten or linear block",
            )
        channels, height, width = self.shape
        return channels, height, width

    def window(self, kernel: int, stride: int, padding: int, dilation: int = 1) -> tuple[int, int]:
        """Height and width after sliding a window over the input; an error if it does not fit in."""
        sides = self.image()[1:]
        height, width = (conv_output_side(side, kernel, stride, padding, dilation) for side in sides)
        if min(height, width) < 1:
            reach = dilation * (kernel - 1) + 1
            raise self.misfit(
                f"its kernel spans {reach} pixels, the padded side has {min(sides) + 2 * padding}",
                fix="use a smaller kernel, more padding, fewer pool blocks before it, or larger images",
            )
        return height, width


def _build(block: Block, place: Place) -> tuple[nn.Module, Shape]:
    """One block and the shape that leaves it."""
    match block:
        case ConvBlock():
            return _conv(block, place)
        case PoolBlock():
            return _pool(block, place)
        case GlobalPoolBlock():
            channels, _, _ = place.image()
            pool = nn.AdaptiveAvgPool2d(1) if block.kind == "avg" else nn.AdaptiveMaxPool2d(1)
            return nn.Sequential(pool, nn.Flatten()), (channels,)
        case DropoutBlock():
            # Neighbouring pixels say nearly the same, so whole maps are dropped (Tompson et al. 2015, section 3.2).
            return (nn.Dropout2d if len(place.shape) == 3 else nn.Dropout)(block.p), place.shape
        case FlattenBlock():
            return nn.Flatten(), (prod(place.shape),)
        case DenseBlock():
            return _dense(block, place)


def _conv(block: ConvBlock, place: Place) -> tuple[nn.Module, Shape]:
    channels, height, width = place.image()
    for what, count in (("input", channels), ("output", block.channels)):
        if count % block.groups:
            raise place.misfit(
                f"{count} {what} channels do not divide into {block.groups} groups",
                fix=f"choose groups that divide both {channels} and {block.channels}",
            )
    padding = _padding(block, place)
    if isinstance(padding, int):
        height, width = place.window(block.kernel, block.stride, padding, block.dilation)
    layers = nn.Sequential()
    layers.add_module(
        "conv",
        nn.Conv2d(
            channels,
            block.channels,
            block.kernel,
            stride=block.stride,
            padding=padding,
            dilation=block.dilation,
            groups=block.groups,
            bias=not block.batch_norm,  # the batch's mean, which the norm subtracts, contains it
        ),
    )
    if block.batch_norm:
        layers.add_module("norm", nn.BatchNorm2d(block.channels))
    layers.add_module("activation", activation(block.activation))
    return layers, (block.channels, height, width)


def _padding(block: ConvBlock, place: Place) -> int | str:
    """Pixels on each side; "same" stays a word where they are uneven, which PyTorch can do at stride 1 only."""
    if block.padding != "same":
        return block.padding
    total = block.dilation * (block.kernel - 1)
    if total % 2 == 0:
        return total // 2
    if block.stride > 1:
        raise place.misfit(
            f"an even kernel ({block.kernel}) has no equal padding on both sides at stride {block.stride}",
            fix=f"use kernel {block.kernel + 1}, or say padding: {total // 2}",
        )
    return "same"


def _pool(block: PoolBlock, place: Place) -> tuple[nn.Module, Shape]:
    channels, _, _ = place.image()
    if block.padding > block.kernel // 2:
        raise place.misfit(
            f"padding {block.padding} is more than half of kernel {block.kernel}",
            fix=f"use padding {block.kernel // 2} or less",
        )
    stride = block.stride or block.kernel
    height, width = place.window(block.kernel, stride, block.padding)
    kind = nn.MaxPool2d if block.kind == "max" else nn.AvgPool2d
    return kind(block.kernel, stride, block.padding), (channels, height, width)


def _dense(block: DenseBlock, place: Place) -> tuple[nn.Module, Shape]:
    layers = nn.Sequential()
    if len(place.shape) == 3:
        layers.add_module("flatten", nn.Flatten())  # [B, C * H * W]
    layers.add_module("linear", nn.Linear(prod(place.shape), block.features, bias=not block.batch_norm))
    if block.batch_norm:
        layers.add_module("norm", nn.BatchNorm1d(block.features))
    layers.add_module("activation", activation(block.activation))
    return layers, (block.features,)
