"""Configuration of a classification. No torch in here."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from mlcli.data.augmentations import Augmentation
from mlcli.data.config import ClassificationData
from mlcli.engine.settings import TaskSettings
from mlcli.models.config import Airbench, FineTune, Linear, Mlp, Model, TimmModel, TorchvisionModel
from mlcli.schema import Strict

ClassWeights = Literal["none", "balanced"] | Annotated[tuple[PositiveFloat, ...], Field(min_length=2)]


class ClassWeighted(Strict):
    """Base of all losses: classes may count differently."""

    class_weights: ClassWeights = "none"
    """balanced weighs each class by 1 / its frequency (mean 1); or one weight per class in label order."""

    takes_blends: ClassVar[bool] = True
    """Whether it can be said of labels that mixup and cutmix have blended."""


class CrossEntropy(ClassWeighted):
    """Negative log-likelihood of the true class under softmax."""

    name: Literal["cross_entropy"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread over all classes (Szegedy et al. 2016, section 7)."""


class Hinge(ClassWeighted):
    """Multi-class hinge (Weston & Watkins 1999); a linear model with it and weight decay is a linear SVM."""

    takes_blends = False

    name: Literal["hinge"]
    margin: PositiveFloat = 1.0
    """Least lead of the true class's score."""
    power: Literal[1, 2] = 1
    """1 for the hinge, 2 for the squared hinge."""


class BinaryCrossEntropy(ClassWeighted):
    """One yes-or-no question per class: sigmoid and binary cross-entropy, averaged over classes."""

    name: Literal["bce"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Targets move from 0 and 1 towards 0.5 by half of this."""


class Focal(ClassWeighted):
    """Cross-entropy that fades out for samples already right (Lin et al. 2017, arXiv:1708.02002, softmax form). Its
    class_weights are the paper's alpha."""

    name: Literal["focal"]
    gamma: NonNegativeFloat = 2.0
    """Focusing strength: the loss is multiplied by (1 - p) ** gamma; 0 is plain cross-entropy."""


class ProbabilityError(ClassWeighted):
    """Distance between softmax and the one-hot target, summed over classes: squared (Brier 1950) or absolute."""

    name: Literal["mse", "l1"]


class SmoothProbabilityError(ClassWeighted):
    """Distance between softmax and the one-hot target: squared where small, absolute beyond (Girshick 2015)."""

    name: Literal["smooth_l1"]
    beta: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Transition from squared to absolute error; probabilities differ by at most 1, so 1 is half of mse."""


Loss = Annotated[
    CrossEntropy | Hinge | BinaryCrossEntropy | Focal | ProbabilityError | SmoothProbabilityError,
    Field(discriminator="name"),
]


class Classification(TaskSettings):
    """One label out of several for each image or row."""

    task: Literal["classification"]
    data: ClassificationData
    """The data set."""
    augment: tuple[Augmentation, ...] = ()
    """Random changes to training images, in this order; images only."""
    model: Model
    """Step 1, the set of functions that is searched."""
    loss: Loss = CrossEntropy(name="cross_entropy")
    """Step 2, how wrong a function is."""
    finetune: FineTune | None = None
    """Start from weights learned elsewhere; null to start from scratch."""

    @model_validator(mode="after")
    def sections_fit_together(self):
        if self.augment and self.data.name in ("csv", "iris", "wine", "breast_cancer", "xor"):
            raise ValueError(f"augment changes images, but data '{self.data.name}' has rows of features")
        mixes = [a.name for a in self.augment if a.name in ("mixup", "cutmix")]
        if mixes and not self.loss.takes_blends:
            raise ValueError(
                f"{mixes[0]} blends labels, which the {self.loss.name} loss cannot express; use cross_entropy or bce"
            )
        return self

    @property
    def convolves(self) -> bool:
        return not isinstance(self.model, Linear | Mlp)

    def from_scratch(self) -> "Classification":
        model = self.model
        if isinstance(model, Airbench):
            model = model.model_copy(update={"whiten": False})
        if isinstance(model, TorchvisionModel | TimmModel):
            model = model.model_copy(update={"weights": "none"})
        return self.model_copy(update={"model": model, "finetune": None})
