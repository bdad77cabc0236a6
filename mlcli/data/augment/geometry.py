"""Moving pixels about: flips, rotation, affine maps. Every sample of a batch moves by its own amount.

Images are [B, C, H, W], uint8 or float32 in 0..255. Flips keep the type; what is interpolated becomes float32. Maps are
float32 [B, 2, 3] and say where an output pixel (x, y), measured in pixels from the middle, comes from.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from mlcli.data.randomness import KeyedRandom


def random_flip(images: Tensor, random: KeyedRandom, *, p: float = 0.5, dim: int = 3) -> Tensor:
    """Mirror some samples along `dim`: 2 for top and bottom, 3 for left and right."""
    return flip(images, random.bernoulli(p), dim)


def flip(images: Tensor, chosen: Tensor, dim: int) -> Tensor:
    """Mirror the chosen samples (bool [B]) along `dim`. By gather, because picking samples would make a GPU wait."""
    size = images.shape[dim]
    forward = torch.arange(size, device=images.device)
    positions = torch.where(chosen[:, None], forward.flip(0), forward)  # [B, size]
    positions = positions.view(-1, 1, size, 1) if dim == 2 else positions.view(-1, 1, 1, size)
    return images.gather(dim, positions.expand_as(images))


def random_rotation(images: Tensor, random: KeyedRandom, *, degrees: float = 15.0) -> Tensor:
    """Turn each sample by an angle from [-degrees, degrees); float32."""
    return warp(images, rotation_map(random.uniform(-degrees, degrees)))


def random_affine(
    images: Tensor,
    random: KeyedRandom,
    *,
    degrees: float = 10.0,
    translate: float = 0.1,
    scale: tuple[float, float] = (0.9, 1.1),
    shear: float = 0.0,
) -> Tensor:
    """Turn, magnify, shear along x and shift each sample by its own amounts; float32. Shifts are no whole pixels.

    degrees, shear: largest angle to either side. translate: largest shift, as a share of width and height.
    """
    height, width = images.shape[-2:]
    angle = random.uniform(-degrees, degrees)
    across, down = random.uniform(-translate, translate, (2,)).unbind(1)
    magnification = random.uniform(*scale)
    slant = random.uniform(-shear, shear)
    return warp(images, affine_map(angle, torch.stack([across * width, down * height], 1), magnification, slant))


def rotation_map(degrees: Tensor) -> Tensor:
    """Counter-clockwise, as PIL and torchvision's `rotate` count; degrees float32 [B]."""
    none = torch.zeros_like(degrees)
    return affine_map(-degrees, none[:, None].expand(-1, 2), none + 1, none)


def affine_map(degrees: Tensor, shift: Tensor, scale: Tensor, shear_degrees: Tensor) -> Tensor:
    """torchvision's `affine`: shear along x, turn clockwise, magnify, shift by (x, y) pixels. All [B], shift [B, 2].

    The inverse of shift * scale * [[cos, -cos tan - sin], [sin, -sin tan + cos]], whose determinant is scale^2.
    """
    angle, slope = degrees * (math.pi / 180), torch.tan(shear_degrees * (math.pi / 180))
    cos, sin = torch.cos(angle), torch.sin(angle)
    inverse = torch.stack([cos - sin * slope, cos * slope + sin, -sin, cos], dim=1).view(-1, 2, 2)
    inverse = inverse / scale[:, None, None]
    return torch.cat([inverse, -inverse @ shift[:, :, None]], dim=2)


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """Fetch every pixel from where `maps` (float32 [B, 2, 3]) says, bilinearly and black from outside; float32."""
    height, width = images.shape[-2:]
    (a, b, x), (c, d, y) = (row.unbind(1) for row in maps.unbind(1))
    # affine_grid counts from -1 to 1 between the borders. Numbers, not a tensor of them: a GPU would wait for its copy.
    across = torch.stack([a, b * (height / width), x * (2 / width)], 1)
    down = torch.stack([c * (width / height), d, y * (2 / height)], 1)
    theta = torch.stack([across, down], 1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
