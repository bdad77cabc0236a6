"""The YAML of an object detection as typed data. No torch in here."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mlcli.engine.settings import TaskSettings
from mlcli.models.config import FineTune
from mlcli.schema import Strict
from mlcli.tasks.detection.data.augmentations import DetectionAugmentation
from mlcli.tasks.detection.data.config import DetectionData
from mlcli.tasks.detection.models.config import DetectionModel, without_weights


class DetectionLoss(Strict):
    """The sum of the detector's own terms: where objects are, how exactly, and what."""

    name: Literal["detection"]
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Factors on terms by name, such as {box: 2.0}; 1 for the others. The terms are named in the log."""


class Detection(TaskSettings):
    """Objects in pictures: where each one is, as a box, and what it is."""

    task: Literal["detection"]
    data: DetectionData
    """The data set."""
    augment: tuple[DetectionAugmentation, ...] = ()
    """Random changes to training pictures, in this order; boxes and masks go along."""
    min_visibility: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Objects of which augmentation leaves a smaller share of the box inside the picture are not learned from."""
    model: DetectionModel
    """Step 1, the set of functions that is searched."""
    loss: DetectionLoss = DetectionLoss(name="detection")
    """Step 2, how wrong a function is."""
    finetune: FineTune | None = None
    """Start from weights learned elsewhere; null to start from scratch."""

    @model_validator(mode="after")
    def masks_come_from_somewhere(self):
        if self.model.name == "mask_rcnn" and self.data.name not in ("scenes", "coco"):
            raise ValueError(f"mask_rcnn learns from masks, which data '{self.data.name}' does not have; use coco")
        return self

    @model_validator(mode="after")
    def tiles_have_no_regions(self):
        if self.model.name in ("rcnn", "fast_rcnn") and any(one.name == "random_tile" for one in self.augment):
            raise ValueError(
                f"regions are proposed for whole pictures: {self.model.name} cannot learn from random_tile"
            )
        return self

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
