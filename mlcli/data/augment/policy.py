"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719) and TrivialAugment (Müller & Hutter 2021, arXiv:2103.10158).

Both draw from the same fourteen operations, each sample its own. Strengths are those of torchvision's RandAugment with
31 levels and TrivialAugmentWide; empty corners are black and pixels are fetched bilinearly, as in `geometry`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mlcli.data.augment import colour, geometry
from mlcli.data.randomness import KeyedRandom

LEVELS = 30  # strengths go from 0 to this


@dataclass(frozen=True)
class Limits:
    """Effect of the operations at full strength.

    shear: slope; translate_share: of the side, or translate_pixels if that is 0; rotate: degrees; enhance: change of a
    colour factor; posterize: bits lost of 8.
    """

    shear: float
    translate_share: float
    translate_pixels: float
    rotate: float
    enhance: float
    posterize: int

    def shift(self, side: int) -> float:
        return self.translate_share * side or self.translate_pixels


RAND_AUGMENT = Limits(0.3, 150 / 331, 0.0, 30.0, 0.9, 4)  # 150 pixels of AutoAugment's 331
TRIVIAL_AUGMENT = Limits(0.99, 0.0, 32.0, 135.0, 0.99, 6)


def rand_augment(images: Tensor, random: KeyedRandom, *, num_ops: int = 2, magnitude: int = 9) -> Tensor:
    """`num_ops` operations one after the other, at one strength, to either side; uint8."""
    for _ in range(num_ops):
        level = torch.full((len(random),), float(magnitude), device=images.device)
        images = _draw_and_apply(images, random, level, RAND_AUGMENT)
    return images


def trivial_augment(images: Tensor, random: KeyedRandom) -> Tensor:
    """One operation at a strength drawn from all levels; uint8."""
    return _draw_and_apply(images, random, random.integers(LEVELS + 1).float(), TRIVIAL_AUGMENT)


def _draw_and_apply(images: Tensor, random: KeyedRandom, level: Tensor, limits: Limits) -> Tensor:
    operation = random.integers(len(OPERATIONS))
    strength = level / LEVELS * torch.where(random.bernoulli(0.5), -1.0, 1.0)
    return apply(_to_uint8(images), operation, strength, limits)


def apply(images: Tensor, operation: Tensor, strength: Tensor, limits: Limits) -> Tensor:
    """Apply OPERATIONS[operation[b]] to sample b. strength: float32 [B] in -1..1, the sign being the side; uint8."""
    changed = images.clone()
    for number, function in enumerate(OPERATIONS.values()):
        rows = (operation == number).nonzero().squeeze(1)  # a GPU is waited for here, once per operation
        if len(rows):
            changed[rows] = _to_uint8(function(images[rows], strength[rows], limits))
    return changed


def _to_uint8(images: Tensor) -> Tensor:
    return images if images.dtype == torch.uint8 else images.round().to(torch.uint8)


# --- the operations: (images uint8, signed strength [B], limits) -> images in 0..255 ----------------------------------


def _shear_x(images: Tensor, strength: Tensor, limits: Limits) -> Tensor:
    slope = strength * limits.shear  # about the upper left corner, as PIL does it
    return geometry.warp(images, _map(strength, [1, slope, slope * (images.shape[2] / 2)], [0, 1, 0]))


def _shear_y(images: Tensor, strength: Tensor, limits: Limits) -> Tensor:
    slope = strength * limits.shear
    return geometry.warp(images, _map(strength, [1, 0, 0], [slope, 1, slope * (images.shape[3] / 2)]))


def _translate_x(images: Tensor, strength: Tensor, limits: Limits) -> Tensor:
    pixels = (strength * limits.shift(images.shape[3])).trunc()
    return geometry.warp(images, _map(strength, [1, 0, -pixels], [0, 1, 0]))


def _translate_y(images: Tensor, strength: Tensor, limits: Limits) -> Tensor:
    pixels = (strength * limits.shift(images.shape[2])).trunc()
    return geometry.warp(images, _map(strength, [1, 0, 0], [0, 1, -pixels]))


def _map(like: Tensor, *rows: list[Tensor | float]) -> Tensor:
    """float32 [B, 2, 3] from two rows of three values, each one number for all samples or one per sample."""
    return torch.stack([torch.stack([like.new_zeros(len(like)) + value for value in row], 1) for row in rows], 1)


def _sharpness(images: Tensor, strength: Tensor, limits: Limits) -> Tensor:
    from torchvision.transforms.v2 import functional

    blurred = functional.adjust_sharpness(images, 0.0).float()
    factor = (1 + strength * limits.enhance).view(-1, 1, 1, 1)
    return (blurred + factor * (images - blurred)).clamp(0, 255)


def _posterize(images: Tensor, strength: Tensor, limits: Limits) -> Tensor:
    lost_bits = (strength.abs() * limits.posterize).round().to(torch.uint8).view(-1, 1, 1, 1)
    return images >> lost_bits << lost_bits


def _solarize(images: Tensor, strength: Tensor, _limits: Limits) -> Tensor:
    threshold = 255 * (1 - strength.abs()).view(-1, 1, 1, 1)
    return torch.where(images >= threshold, 255 - images, images)


def _of_torchvision(name: str, images: Tensor, *_: object) -> Tensor:
    from torchvision.transforms.v2 import functional

    return getattr(functional, name)(images)


OPERATIONS: dict[str, Callable[[Tensor, Tensor, Limits], Tensor]] = {
    "identity": lambda images, _strength, _limits: images,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "rotate": lambda images, side, limits: geometry.warp(images, geometry.rotation_map(side * limits.rotate)),
    "brightness": lambda images, side, limits: colour.adjust_brightness(images, 1 + side * limits.enhance),
    "color": lambda images, side, limits: colour.adjust_saturation(images, 1 + side * limits.enhance),
    "contrast": lambda images, side, limits: colour.adjust_contrast(images, 1 + side * limits.enhance),
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": partial(_of_torchvision, "autocontrast"),
    "equalize": partial(_of_torchvision, "equalize"),
}
