"""The compact backbone that every detector here can train from scratch: residual maps of several strides, and a neck.

Residual blocks of Darknet-53 (Redmon & Farhadi 2018, arXiv:1804.02767, table 1), SiLU (Elfwing et al. 2017,
arXiv:1702.03118) after each norm; at the top, pooling over windows of several sizes (He et al. 2014, arXiv:1406.4729).
The neck carries meaning down to fine maps (Lin et al. 2017, arXiv:1612.03144) and position back up to coarse ones
(Liu et al. 2018, arXiv:1803.01534). About a million parameters at width 16.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlcli.tasks.detection.models.anchors import grid_points

BACKBONE_STRIDES = (4, 8, 16, 32)
"""Maps that the backbone can hand out; coarser ones are made by the neck."""

NECK_WIDTH = 4
"""Channels of the neck's maps as a multiple of `width`: 64 at width 16."""

PRIOR = 0.01
"""First score of what says whether something is there, so that the mass of empty cells does not drown the first steps
(Lin et al. 2017, arXiv:1708.02002, section 4.1)."""


class Conv(nn.Sequential):
    """Convolution, BatchNorm, SiLU. [B, in, H, W] -> [B, out, ceil(H / stride), ceil(W / stride)] for odd kernels."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.SiLU(inplace=True),
        )


class Residual(nn.Module):
    """x + conv3x3(conv1x1(x)), with half the channels between the two."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(Conv(channels, channels // 2, kernel_size=1), Conv(channels // 2, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.change(x)


class PyramidPooling(nn.Module):
    """Each cell also sees the maxima of the 5x5, 9x9 and 13x13 cells around it.

    5x5 maxima of 5x5 maxima are 9x9 maxima: three small poolings in a row cost less than three of growing size.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = Conv(channels, channels // 2, kernel_size=1)
        self.pool = nn.MaxPool2d(kernel_size=5, stride=1, padding=2)
        self.merge = Conv(channels // 2 * 4, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        views = [self.reduce(x)]
        for _ in range(3):
            views.append(self.pool(views[-1]))
        return self.merge(torch.cat(views, dim=1))


class CompactBackbone(nn.Module):
    """float32 [B, 3, H, W] -> four maps, [B, 2w, H/4, W/4] to [B, 16w, H/32, W/32]; sides are rounded up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = tuple(width * stride // 2 for stride in BACKBONE_STRIDES)
        self.stem = Conv(3, width, stride=2)
        stages, in_channels = [], width
        for channels in self.channels:
            stages.append(nn.Sequential(Conv(in_channels, channels, stride=2), Residual(channels)))
            in_channels = channels
        stages[-1].append(PyramidPooling(in_channels))
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.stem(images)]  # [B, w, H / 2, W / 2]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


class CompactFpn(nn.Module):
    """Backbone and neck: float32 [B, 3, H, W] -> {"0": [B, C, H / s0, W / s0], "1": ...}, finest first.

    `out_channels` is C, the same for all maps; `strides` are those of the maps, in pixels. torchvision's detectors take
    it as it is. backbone: another in place of the compact one, with `channels` of its maps.
    """

    def __init__(self, width: int, strides: Sequence[int], backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.out_channels = channels = NECK_WIDTH * width
        self.backbone = backbone or CompactBackbone(width)
        self.finest = BACKBONE_STRIDES.index(strides[0])
        channels_of: tuple[int, ...] = self.backbone.channels  # type: ignore[assignment]  # of any module
        inner = channels_of[self.finest :]  # down from the top in any case: it has seen the most
        self.lateral = nn.ModuleList(Conv(from_channels, channels, kernel_size=1) for from_channels in inner)
        self.down = nn.ModuleList(Conv(channels, channels) for _ in inner[:-1])
        self.up = nn.ModuleList(Conv(channels, channels, stride=2) for _ in strides[1:])
        self.merge = nn.ModuleList(Conv(channels, channels) for _ in range(1, min(len(inner), len(strides))))

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        maps = self.backbone(images)[self.finest :]
        inner = [lateral(values) for lateral, values in zip(self.lateral, maps, strict=True)]
        for level in range(len(inner) - 2, -1, -1):
            coarse = functional.interpolate(inner[level + 1], size=inner[level].shape[2:], mode="nearest")
            inner[level] = self.down[level](inner[level] + coarse)
        outer = [inner[0]]
        for level, up in enumerate(self.up, start=1):
            finer = up(outer[-1])
            outer.append(self.merge[level - 1](inner[level] + finer) if level < len(inner) else finer)
        return OrderedDict((str(level), values) for level, values in enumerate(outer))


def branch(channels: int, first_bias: Tensor) -> nn.Sequential:
    """[B, channels, H, W] -> [B, outputs, H, W], with a first bias for each output."""
    last = nn.Conv2d(channels, len(first_bias), kernel_size=1)
    last.bias = nn.Parameter(first_bias.clone())
    return nn.Sequential(Conv(channels, channels), last)


def prior_logit(questions: int = 1) -> float:
    """Return the first bias of each of some yes-or-no questions about a box, whose first scores sum up to PRIOR."""
    return -math.log(questions / PRIOR - 1)


def map_size(image_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width in cells of the map of a stride, for an image (height, width): rounded up, as padding does."""
    return -(-image_size[0] // stride), -(-image_size[1] // stride)


def cells(image_size: tuple[int, int], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Lay out the cells of the maps of an image (height, width): row by row, map after map.

    Returns their centres in pixels, float32 [A, 2] as (x, y), and the stride of each one's map, float32 [A].
    """
    sizes = [(stride, *map_size(image_size, stride)) for stride in strides]
    centres_xy = torch.cat([grid_points(rows, columns, stride) for stride, rows, columns in sizes])
    sides = torch.cat([torch.full((rows * columns,), float(stride)) for stride, rows, columns in sizes])
    return centres_xy, sides


def by_box(maps: Mapping[str, Tensor], layers: nn.ModuleList, outputs: int) -> Tensor:
    """Apply a layer to each map: float32 [B, N, outputs], map after map, row by row, cell by cell, box by box.

    Each layer turns [B, C, h, w] into [B, boxes * outputs, h, w].
    """
    said = [layer(values).permute(0, 2, 3, 1) for layer, values in zip(layers, maps.values(), strict=True)]
    return torch.cat([values.reshape(values.shape[0], -1, outputs) for values in said], dim=1).float()


def compact_fpn(width: int = 16, strides: Sequence[int] = (8, 16, 32), backbone: nn.Module | None = None) -> CompactFpn:
    """Backbone and neck with maps of these strides, each twice the one before: 4, 8, 16, 32, 64... from 32 or less.

    backbone: another than the compact one, with the same strides.
    """
    assert strides[0] in BACKBONE_STRIDES, strides
    assert all(coarse == 2 * fine for fine, coarse in pairwise(strides)), strides
    return CompactFpn(width, strides, backbone)
