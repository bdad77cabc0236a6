"""The augmentations of a detection YAML: random changes to training pictures that take the boxes along.

Plain data without torch; `augment/` carries them out. What images have too is the same here but for its defaults. All
that move pixels are maps of the plane; they are multiplied into one per picture, and the picture is resampled once.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from mlcli.data.augmentations import Affine, AreaShare, ColorJitter, CutsOriginals, HorizontalFlip, Odds, VerticalFlip
from mlcli.schema import Strict

MinIou = Annotated[float, Field(ge=0, lt=1)]


class RandomTile(CutsOriginals):
    """A part of a large picture at its own resolution, as `--tiles` shows it to the model; first, wherever it stands.

    Pictures no larger than a tile are seen whole. Objects are cut at the tile's edges; of those of which less than
    min_visibility is left nothing is learned. The model is measured in tiles as well, of the same side.
    """

    name: Literal["random_tile"]
    side: Annotated[int, Field(ge=16)] | None = None
    """Pixels of the picture along a tile's longer side; the tile has the shape of data.image_size and is brought to it.
    null for as many pixels as that has: nothing is made smaller."""
    per_picture: Annotated[int, Field(gt=0, le=1000)] = 1
    """Tiles drawn of each picture in an epoch."""
    empty: Odds = 0.1
    """Share of the tiles that may lie anywhere, where mostly there is nothing; each of the others holds an object, as
    whole as it fits. Tiles of pictures without objects are not affected."""
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    """Share of a tile that its neighbours see too, when the model is measured."""


class Photometric(ColorJitter):
    """Brightness, contrast, saturation, hue, each by its own random amount (SSD, Liu et al. 2016, section 3.6)."""

    name: Literal["photometric"]  # type: ignore[assignment]
    brightness: Annotated[float, Field(ge=0)] = 0.3
    contrast: Annotated[float, Field(ge=0)] = 0.3
    saturation: Annotated[float, Field(ge=0)] = 0.3
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.02


class IouCrop(Strict):
    """A part of the picture that overlaps some object enough (SSD, section 2.2, data augmentation)."""

    name: Literal["iou_crop"]
    p: Odds = 0.8
    """Probability; otherwise the whole picture is kept. Pictures without objects are kept whole."""
    min_scale: AreaShare = 0.3
    """Smallest side of the part, as a share of the picture's."""
    min_ious: Annotated[tuple[MinIou, ...], Field(min_length=1)] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    """One is drawn: the part must overlap at least one object by this intersection over union."""
    trials: Annotated[int, Field(ge=1, le=100)] = 20
    """Parts tried; the first that fits is taken, the whole picture if none does."""


class ZoomOut(Strict):
    """The picture, smaller, somewhere on a grey canvas (SSD, section 3.6): more small objects."""

    name: Literal["zoom_out"]
    p: Odds = 0.5
    """Probability."""
    most: Annotated[float, Field(ge=1)] = 2.5
    """Side of the canvas in sides of the picture: 1 to this."""


class BoxAffine(Affine):
    """Rotate, shift, scale and shear about the middle; boxes become those around the moved corners."""

    degrees: Annotated[float, Field(ge=0, le=45)] = 0.0
    """Largest rotation to either side; boxes grow with it."""
    scale: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.3)
    shear: Annotated[float, Field(ge=0, lt=45)] = 0.0


class Mosaic(Strict):
    """Four pictures of the batch in one, meeting at a random point (Bochkovskiy et al. 2020, section 3.3)."""

    name: Literal["mosaic"]
    p: Odds = 0.5
    """Probability, picture by picture."""
    off_share: Odds = 0.15
    """Share of the epochs, at the end of training, without it: evaluation shows whole pictures."""


class BoxMixup(Strict):
    """Blend a picture with another of the batch and keep the objects of both (Zhang et al. 2019, arXiv:1902.04103)."""

    name: Literal["mixup"]
    p: Odds = 0.1
    """Probability, picture by picture."""
    off_share: Odds = 0.15
    """Share of the epochs, at the end of training, without it."""


DetectionAugmentation = Annotated[
    RandomTile | Photometric | IouCrop | ZoomOut | BoxAffine | HorizontalFlip | VerticalFlip | Mosaic | BoxMixup,
    Field(discriminator="name"),
]
