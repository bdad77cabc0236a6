"""The YAML of an object detection as typed data. No torch in here."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from mlcli.engine.settings import TaskSettings
from mlcli.models.config import FineTune
from mlcli.schema import Strict
from mlcli.tasks.detection.data.augmentations import DetectionAugmentation
from mlcli.tasks.detection.data.config import DetectionData, side_unit
from mlcli.tasks.detection.models.config import DetectionModel, FromProposals, without_weights


class DetectionLoss(Strict):
    """The sum of the detector's own terms: where objects are, how exactly, and what."""

    name: Literal["detection"]
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Factors on terms by name, such as {box: 2.0}; 1 for the others. The terms are named in the log."""


Longest = Annotated[int, Field(gt=0, le=16_384)]


class MultiScale(Strict):
    """Another size of the input every few steps, so that objects are learned at several (Redmon & Farhadi 2017, YOLOv2,
    section 2): what comes out of the augmentations is resized, and the model follows.

    Which size comes when follows from the seed and the step. Both sides stay multiples of the coarsest stride, and the
    shape stays. The model is measured, saved and used at data.image_size.
    """

    least: Longest | None = None
    """Pixels of the longer side at least; null for three quarters of that of data.image_size."""
    most: Longest | None = None
    """Pixels of the longer side at most; null for five quarters. Twice the side is four times the work and memory."""
    every: PositiveInt = 10
    """Steps at one size."""

    def sizes(self, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return all heights and widths that there can be, the smallest first."""
        longer, unit = max(image_size), side_unit(image_size)
        least, most = self.least or 3 * longer / 4, self.most or 5 * longer / 4
        fitting = [side for side in range(unit, int(most) + 1, unit) if side >= least]
        return [(side * image_size[0] // longer, side * image_size[1] // longer) for side in fitting]


class Detection(TaskSettings):
    """Objects in pictures: where each one is, as a box, and what it is."""

    task: Literal["detection"]
    data: DetectionData
    """The data set."""
    augment: tuple[DetectionAugmentation, ...] = ()
    """Random changes to training pictures, in this order; boxes and masks go along."""
    min_visibility: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Objects of which augmentation leaves a smaller share of the box inside the picture are not learned from."""
    multi_scale: MultiScale | None = None
    """Train at several sizes of the input; null for data.image_size alone."""
    model: DetectionModel
    """Step 1, the set of functions that is searched."""
    loss: DetectionLoss = DetectionLoss(name="detection")
    """Step 2, how wrong a function is."""
    finetune: FineTune | None = None
    """Start from weights learned elsewhere; null to start from scratch."""

    @model_validator(mode="after")
    def masks_come_from_somewhere(self):
        if self.model.learns_masks and self.data.name not in ("scenes", "coco"):
            raise ValueError(
                f"{self.model.name} learns from masks, which data '{self.data.name}' does not have; use coco"
            )
        return self

    @model_validator(mode="after")
    def tiles_have_no_regions(self):
        if isinstance(self.model, FromProposals) and any(one.name == "random_tile" for one in self.augment):
            raise ValueError(
                f"regions are proposed for whole pictures: {self.model.name} cannot learn from random_tile"
            )
        return self

    @model_validator(mode="after")
    def model_takes_rectangles(self):
        if self.data.rectangular and self.model.one_shape:
            what = f"{self.model.one_shape} the whole input"
            raise ValueError(f"{what}: {self.model.name} cannot be used with data.rectangular")
        return self

    @model_validator(mode="after")
    def training_takes_rectangles(self):
        if self.data.rectangular == "train":
            if any(one.name == "random_tile" for one in self.augment):
                raise ValueError("rectangular: train is for whole pictures, and random_tile shows tiles; use true")
            if self.multi_scale:
                raise ValueError("rectangular: train and multi_scale both set the size of a step; leave one out")
        return self

    @model_validator(mode="after")
    def some_sizes_fit(self):
        if self.multi_scale is None:
            return self
        least, most, image_size = self.multi_scale.least, self.multi_scale.most, self.image_size
        if least and most and least > most:
            raise ValueError(f"multi_scale: least ({least}) is more than most ({most})")
        if len(self.multi_scale.sizes(image_size)) < 2:
            unit, longer = side_unit(image_size), max(image_size)
            raise ValueError(
                f"multi_scale: fewer than two sizes fit: the longer side has to be a multiple of {unit}; for example "
                f"least: {max(unit, longer - unit)}, most: {longer + unit}"
            )
        return self

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the model's input."""
        size = self.data.image_size
        return (size, size) if isinstance(size, int) else size

    @property
    def convolves(self) -> bool:
        return True

    @classmethod
    def complete_saved(cls, plain: dict[str, Any]) -> None:
        """Runs of YOLO from before its gains could be set had those of TOOD, and no term `distribution`."""
        model = plain.get("model")
        if isinstance(model, dict) and model.get("name") == "yolo":
            for key, value in {"box_gain": 2.0, "class_gain": 1.0, "distribution_gain": 0.0}.items():
                model.setdefault(key, value)

    def from_scratch(self) -> "Detection":
        """The same without weights learned elsewhere, for a model whose weights come from its own checkpoint."""
        return self.model_copy(update={"model": without_weights(self.model), "finetune": None})
