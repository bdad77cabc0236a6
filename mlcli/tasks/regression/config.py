"""Configuration of a regression. No torch in here."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from mlcli.data.config import RegressionData
from mlcli.engine.settings import TaskSettings
from mlcli.models.config import FineTune, Linear, Mlp
from mlcli.schema import Strict


class Mse(Strict):
    """Mean squared error: large misses dominate; its best constant answer is the mean."""

    name: Literal["mse"]


class L1(Strict):
    """Mean absolute error: every miss counts by its size; its best constant answer is the median."""

    name: Literal["l1"]


class SmoothL1(Strict):
    """Squared near zero, absolute beyond (Huber 1964; Girshick 2015, section 2.3)."""

    name: Literal["smooth_l1"]
    beta: PositiveFloat = 1.0
    """Transition from squared to absolute error, in standard deviations of the target."""


Loss = Annotated[Mse | L1 | SmoothL1, Field(discriminator="name")]


class Regression(TaskSettings):
    """A number for each row. The target is standardised while learning; metrics are in its own unit."""

    task: Literal["regression"]
    data: RegressionData
    """The data set."""
    model: Annotated[Linear | Mlp, Field(discriminator="name")]
    """Step 1, the set of functions that is searched."""
    loss: Loss = Mse(name="mse")
    """Step 2, how wrong a function is."""
    finetune: FineTune | None = None
    """Start from weights learned elsewhere; null to start from scratch."""

    def from_scratch(self) -> "Regression":
        return self.model_copy(update={"finetune": None})
