"""The augmentations a YAML can name: random changes to training images. `augment/build.py` makes functions of them.

No torch in here.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat

from mlcli.data.config import Side
from mlcli.schema import Strict

Odds = Annotated[float, Field(ge=0, le=1)]
AreaShare = Annotated[float, Field(gt=0, le=1)]


def _ascend(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the smaller bound comes first: [{bounds[1]:g}, {bounds[0]:g}]")
    return bounds


Range = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascend)]


class RandomCrop(Strict):
    """Pad all around, then cut the original size out at a random place (He et al. 2015, section 4.2)."""

    name: Literal["random_crop"]
    padding: Side = 4
    """Pixels added on each side."""
    fill: Literal["zero", "reflect", "edge"] = "zero"
    """Content of the added pixels: black, the mirrored image, or its repeated edge."""


class CutsOriginals(Strict):
    """Base of augmentations that cut parts from the pixels of image files, before these are brought to one size."""


class RandomResizedCrop(CutsOriginals):
    """Cut out a random area of random shape and resize it to the image size (Szegedy et al. 2015, section 6)."""

    name: Literal["random_resized_crop"]
    area: Annotated[tuple[AreaShare, AreaShare], AfterValidator(_ascend)] = (0.08, 1.0)
    """Smallest and largest share of the image's area."""
    ratio: Range = (3 / 4, 4 / 3)
    """Smallest and largest width / height."""


class HorizontalFlip(Strict):
    """Mirror left and right."""

    name: Literal["horizontal_flip"]
    p: Odds = 0.5
    """Probability."""
    alternate: bool = False
    """Draw once which images begin mirrored, then mirror each in every other epoch, so that no two epochs in a row show
    an image alike (Jordan 2024, arXiv:2404.00498, section 3.6)."""


class VerticalFlip(Strict):
    """Mirror top and bottom."""

    name: Literal["vertical_flip"]
    p: Odds = 0.5
    """Probability."""


class Rotation(Strict):
    """Rotate about the middle, bilinearly, black where nothing was."""

    name: Literal["rotation"]
    degrees: PositiveFloat = 15.0
    """Largest angle to either side."""


class Affine(Strict):
    """Rotate, shift, scale and shear about the middle, bilinearly, black where nothing was."""

    name: Literal["affine"]
    degrees: Annotated[float, Field(ge=0)] = 10.0
    """Largest rotation to either side."""
    translate: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest shift to either side, as a share of width and height."""
    scale: Range = (0.9, 1.1)
    """Smallest and largest magnification."""
    shear: Annotated[float, Field(ge=0, lt=90)] = 0.0
    """Largest shear to either side, in degrees."""


class ColorJitter(Strict):
    """Change brightness, contrast, saturation and hue, each by its own random amount."""

    name: Literal["color_jitter"]
    brightness: Annotated[float, Field(ge=0)] = 0.2
    """Factor drawn from [1 - value, 1 + value], as for contrast and saturation."""
    contrast: Annotated[float, Field(ge=0)] = 0.2
    """Blend with the image's mean grey."""
    saturation: Annotated[float, Field(ge=0)] = 0.2
    """Blend with the image in grey."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest turn of the hue circle to either side, in full turns."""


class Grayscale(Strict):
    """Take the colour away, keep three channels."""

    name: Literal["grayscale"]
    p: Odds = 0.1
    """Probability."""


class Cutout(Strict):
    """Blank a square at a random place (DeVries & Taylor 2017, arXiv:1708.04552)."""

    name: Literal["cutout"]
    size: Side = 8
    """Side of the square in pixels; parts outside the image are cut off."""
    p: Odds = 1.0
    """Probability."""


class RandAugment(Strict):
    """Apply `num_ops` random operations at one strength (Cubuk et al. 2020, arXiv:1909.13719)."""

    name: Literal["rand_augment"]
    num_ops: Annotated[int, Field(ge=1, le=100)] = 2
    """Operations applied one after the other."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Strength of each, 0 to 30."""


class TrivialAugment(Strict):
    """Apply one random operation at a random strength (Müller & Hutter 2021, arXiv:2103.10158)."""

    name: Literal["trivial_augment"]


class Mixup(Strict):
    """Blend each image and label with another of the batch (Zhang et al. 2018, arXiv:1710.09412)."""

    name: Literal["mixup"]
    alpha: PositiveFloat = 0.2
    """The blend is drawn from Beta(alpha, alpha): small values stay near the originals."""
    p: Odds = 1.0
    """Probability per batch; together with CutMix, one of the two is drawn."""


class CutMix(Strict):
    """Paste a rectangle of another image of the batch, labels by area (Yun et al. 2019, arXiv:1905.04899)."""

    name: Literal["cutmix"]
    alpha: PositiveFloat = 1.0
    """The kept area is drawn from Beta(alpha, alpha)."""
    p: Odds = 1.0
    """Probability per batch; together with mixup, one of the two is drawn."""


Augmentation = Annotated[
    RandomCrop
    | RandomResizedCrop
    | HorizontalFlip
    | VerticalFlip
    | Rotation
    | Affine
    | ColorJitter
    | Grayscale
    | Cutout
    | RandAugment
    | TrivialAugment
    | Mixup
    | CutMix,
    Field(discriminator="name"),
]
