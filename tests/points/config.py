"""What its YAML may say."""

from typing import Literal

from pydantic import PositiveInt

from mlcli.engine.settings import TaskSettings
from mlcli.schema import Strict


class Circle(Strict):
    """Points on a circle, given by the cosine and sine of half their angle."""

    name: Literal["circle"]
    samples: PositiveInt = 60
    """How many there are to train on."""


class Tiny(Strict):
    """A hidden layer and an output layer."""

    name: Literal["tiny"]
    hidden: PositiveInt = 8
    """Neurons of the hidden layer."""


class Distance(Strict):
    """The squared distance between the point answered and the true one."""

    name: Literal["distance"]


class Points(TaskSettings):
    """A point in the plane for each row."""

    task: Literal["points"]
    data: Circle
    """What is learned from."""
    model: Tiny
    """Step 1, the set of functions that is searched."""
    loss: Distance = Distance(name="distance")
    """Step 2, how wrong a function is."""
