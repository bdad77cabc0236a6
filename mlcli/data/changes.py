"""Images changed by a known amount, and seen in several views: how a score depends on where, how large and how clear.

Directions and noise are keyed by the sample, so the same images come out whatever the batches, and each time anew.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from mlcli.data.augment.geometry import affine_map, flip, pad, warp
from mlcli.data.randomness import KeyedRandom, sample_keys

Change = Literal["shift", "scale", "rotate", "blur", "noise"]
VIEW_SCALES = (1.0, 0.9, 1.1)
"""Magnifications that `scale` averages over."""


class Kind(NamedTuple):
    """none: the amount that changes nothing. least, most: bounds. unit: for people."""

    none: float
    least: float
    most: float
    unit: str


KINDS: dict[Change, Kind] = {
    "shift": Kind(0, 0, 1000, "pixels, each image to one of four sides"),
    "scale": Kind(1, 0.05, 20, "times as large"),
    "rotate": Kind(0, 0, 180, "degrees, each image to one of two sides"),
    "blur": Kind(0, 0, 50, "pixels (standard deviation of a Gaussian)"),
    "noise": Kind(0, 0, 1, "standard deviation, of values from 0 to 1"),
}
assert KINDS.keys() == set(get_args(Change))


def changed(images: Tensor, kind: Change, amount: float, indices: Tensor) -> Tensor:
    """Return images uint8 [B, C, H, W] changed by an amount in the unit of its kind, as uint8 of the same shape.

    indices: int64 [B], the samples' positions, from which each one's direction and noise follow. What comes in from
    outside repeats the border.
    """
    if amount == KINDS[kind].none:
        return images
    random = KeyedRandom(sample_keys(0, 0, indices.to(images.device)))
    none = torch.zeros(len(images), device=images.device)
    still = torch.stack([none, none], dim=1)
    match kind:
        case "shift":
            quarter = random.integers(4) * (math.pi / 2)
            aside = torch.stack([quarter.cos(), quarter.sin()], dim=1).round() * amount
            found = warp(images, affine_map(none, aside, none + 1, none), outside="border")
        case "scale":
            found = warp(images, affine_map(none, still, none + amount, none), outside="border")
        case "rotate":
            turn = torch.where(random.bernoulli(0.5), amount, -amount)
            found = warp(images, affine_map(turn, still, none + 1, none), outside="border")
        case "blur":
            found = blurred(images, amount)
        case "noise":
            found = images + 255 * amount * random.normal(tuple(images.shape[1:]))
    return found.round().clamp(0, 255).to(images.dtype)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """float32 [B, C, H, W], each pixel a mean of its surroundings weighted by a Gaussian; the border is repeated."""
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-torch.arange(-reach, reach + 1, device=images.device).float().square() / (2 * sigma**2))
    kernel, channels = weights / weights.sum(), images.shape[1]
    padded = functional.pad(images.float(), [reach] * 4, mode="replicate")
    across = functional.conv2d(padded, kernel.expand(channels, 1, 1, -1), groups=channels)
    return functional.conv2d(across, kernel[:, None].expand(channels, 1, -1, 1), groups=channels)


def views(names: Sequence[str]) -> list[Callable[[Tensor], Tensor]]:
    """Return functions from images [B, C, H, W] to views of them, some twice, which are to count twice.

    names: flip (as they are and mirrored), scale (at several sizes), shift (as they are, which counts as much as both
    others together, and moved by a pixel up and left, and down and right; Jordan 2024, arXiv:2404.00498, section 3.5);
    with several, all combinations.
    """

    @functools.cache
    def view(corner: int, scale: float, mirrored: bool) -> Callable[[Tensor], Tensor]:
        def seen(images: Tensor) -> Tensor:
            if corner != 1:
                height, width = images.shape[-2:]
                images = pad(images, 1, "reflect")[..., corner : corner + height, corner : corner + width]
            if mirrored:
                images = flip(images, torch.ones(len(images), dtype=torch.bool, device=images.device), 3)
            positions = torch.zeros(len(images), dtype=torch.int64)
            return changed(images, "scale", scale, positions)

        return seen

    scales = VIEW_SCALES if "scale" in names else VIEW_SCALES[:1]
    sides = (False, True) if "flip" in names else (False,)
    corners = (1, 1, 0, 2) if "shift" in names else (1,)
    return [view(corner, scale, mirrored) for corner in corners for scale in scales for mirrored in sides]
