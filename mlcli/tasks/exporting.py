"""What a task has to offer for its models to be exported: protocols, and how two models' answers are compared.

No torch in here but for types.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from mlcli.data.info import DataInfo

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mlcli.engine.contract import Inputs, Record

LEAST_COSINE = 0.999
TIE = 1e-5
"""Probabilities closer than this are equal: which is the larger is decided by the last bits of a sum."""


class Answers(Protocol):
    """What an exported model's predictions become for people; made by `from_facts` of a class that `TaskEntry.answers`
    names. See `mlcli.engine.contract.Predictor` for what it shares with that."""

    info: DataInfo
    caveat: str
    output_names: Any

    @property
    def formats(self) -> "Mapping[str, Callable[[list[Record]], str]]": ...
    def output_shapes(self) -> tuple[tuple[int, ...], ...]: ...
    def predictions(self, outputs: Sequence[np.ndarray]) -> Any: ...
    def inputs(self, paths: Sequence[Path], *, invert: bool = False) -> "Inputs": ...
    def records(
        self, predictions: Any, inputs: "Inputs", positions: Sequence[int], top: int | None
    ) -> "list[Record]": ...
    def rows(self, record: "Record") -> "list[Record]": ...


class Check(NamedTuple):
    """One comparison of an exported model with its original, in words.

    name, value, bar: such as "cosine", "1.000000" and "> 0.999"; bar is empty for what is only told.
    passed: whether it is above the bar.
    """

    name: str
    value: str
    bar: str = ""
    passed: bool = True


@runtime_checkable
class Exportable(Protocol):
    """A predictor whose model can be exported."""

    info: DataInfo
    output_names: Any

    def answer_facts(self) -> dict[str, Any]:
        """Return what `Answers.from_facts` takes, as JSON's types."""

    def exportable(self) -> "nn.Module":
        """Return a module from inputs [B, ...] to a tuple of outputs by `output_names`, [B, ...] each, of shapes that
        do not depend on the values. Raises ConfigError for a model that has no such form, and says why."""

    def outputs_of(self, predictions: Any) -> "tuple[Tensor, ...]":
        """Return predictions of the model itself in the form of the exported one's outputs."""

    def predictions_of(self, outputs: "Sequence[Tensor]") -> Any:
        """The inverse of `outputs_of`, for `Task.metrics`."""

    def compare(self, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> list[Check]:
        """Compare outputs of the model itself with those of the exported one."""


def closeness(ours: np.ndarray, theirs: np.ndarray) -> list[Check]:
    """Return the largest difference of two arrays of outputs, and the cosine between them."""
    a, b = (np.asarray(each, dtype=np.float64).ravel() for each in (ours, theirs))
    product = np.sqrt((a @ a) * (b @ b))
    cosine = 1.0 if np.array_equal(a, b) else float(a @ b / product) if product > 0 else 0.0
    largest = float(np.abs(a - b).max()) if len(a) else 0.0
    close = cosine > LEAST_COSINE  # false for NaN
    return [Check("largest difference", f"{largest:.2g}"), Check("cosine", f"{cosine:.6f}", f"> {LEAST_COSINE}", close)]


def same_labels(ours: np.ndarray, theirs: np.ndarray) -> Check:
    """Return whether the likeliest class is the same for all samples [B, C]; of equal ones, either."""
    rows, answer = np.arange(len(ours)), theirs.argmax(axis=1)
    same = ours.max(axis=1) - ours[rows, answer] <= TIE
    count = int(same.sum())
    return Check("same top-1", f"{count} of {len(ours)}", "all", count == len(ours))
