"""Sliding windows: where to look in a picture of which nothing is known but its size.

As detectors did before there were proposals (Viola & Jones 2001; Felzenszwalb et al. 2010): windows of several sizes,
moved on by a share of their side.
"""

import math
from itertools import product

import torch
from torch import Tensor

SMALLEST = 1 / 8
"""Side of the smallest windows, in shorter sides of the picture; it overlaps objects of 0.7 of it by half."""

OCTAVES_APART = 0.5
"""Each size is 1.4 times the next smaller one."""

SQUARES, SHAPES = (1.0,), (1.0, 0.5, 2.0)
"""Height divided by width."""

LAYOUTS = ((SHAPES, 1 / 4), (SHAPES, 1 / 3), (SQUARES, 1 / 3), (SQUARES, 1 / 2), (SQUARES, 2 / 3))
"""Shapes, and how far each window is moved on, in its own sides; from fine to coarse. On a square picture these are
4560, 2630, 884, 434 and 274 windows. Of boxes of 1/10 to 1/2 of the picture, anywhere and of any shape between 1:2 and
2:1, they overlap 100, 100, 99, 90 and 74 % by half (IoU 0.5), but only 69, 45, 22, 10 and 7 % by IoU 0.7."""


def sliding_windows(height: int, width: int, most: int) -> Tensor:
    """The finest layout of at most `most` windows, largest first: float32 [P, 4], corners in pixels, in the picture.

    Where even the coarsest layout has more, its smallest windows are left out.
    """
    for shapes, share in LAYOUTS:
        windows = _layout(height, width, shapes, share)
        if len(windows) <= most:
            break
    return windows[:most]


def _layout(height: int, width: int, shapes: tuple[float, ...], share: float) -> Tensor:
    shorter = min(height, width)
    sizes = [shorter * 2 ** (-OCTAVES_APART * i) for i in range(round(-math.log2(SMALLEST) / OCTAVES_APART) + 1)]
    windows = []
    for size, shape in product(sizes, shapes):
        tall, wide = min(size * math.sqrt(shape), height), min(size / math.sqrt(shape), width)
        top, left = torch.meshgrid(_starts(height, tall, share), _starts(width, wide, share), indexing="ij")
        windows.append(torch.stack([left, top, left + wide, top + tall], dim=-1).view(-1, 4))
    return torch.cat(windows)


def _starts(whole: float, side: float, share: float) -> Tensor:
    """Where windows of this side begin, evenly from end to end and at most `share` of a side apart."""
    room = whole - side
    return torch.linspace(0, room, 1 + math.ceil(room / (share * side) - 1e-6))  # 7.0000001 moves are 7
