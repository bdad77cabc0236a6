"""What a task has to offer for its models to be exported: protocols, and how two models' answers are compared.

No torch in here but for types.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from mlcli.data.info import DataInfo
from mlcli.engine.predicting import Answers

if TYPE_CHECKING:
    from torch import Tensor, nn

LEAST_COSINE = 0.999
MOST_OF_SPREAD, LEAST_SPREAD = 0.01, 1e-3
"""Of predicted numbers: how far they may be apart, in their standard deviation; and the least share of the largest of
them that this is taken for."""
TIE = 1e-5
"""Probabilities closer than this are equal: which is the larger is decided by the last bits of a sum."""

Again = Callable[[int], Sequence[np.ndarray]]
"""Outputs of the model itself for the same samples, each weight changed at random by a hundred-thousandth of it."""


class ExportedAnswers(Answers, Protocol):
    """What an exported model's predictions become for people; made by `from_facts` of a class that `TaskEntry.answers`
    names."""

    info: DataInfo
    output_names: Any

    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shape of each output for one sample. Raises CheckpointError where the facts say none."""

    def predictions(self, outputs: Sequence[np.ndarray]) -> Any:
        """Return what `records` takes, from the outputs."""


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
        """Return what `ExportedAnswers.from_facts` takes, as JSON's types."""

    def exportable(self) -> "nn.Module":
        """Return a module from inputs [B, ...] to a tuple of outputs by `output_names`, [B, ...] each, of shapes that
        do not depend on the values. Raises ConfigError for a model that has no such form, and says why."""

    def outputs_of(self, predictions: Any) -> "tuple[Tensor, ...]":
        """Return predictions of the model itself in the form of the exported one's outputs."""

    def predictions_of(self, outputs: "Sequence[Tensor]") -> Any:
        """The inverse of `outputs_of`, for `Task.metrics`."""

    def compare(
        self, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], again: "Again | None" = None
    ) -> list[Check]:
        """Compare outputs of the model itself with those of the exported one, sample by sample.

        again: tells a sample that the model itself is not sure of: then neither's answer is wrong.
        """


def closeness(ours: np.ndarray, theirs: np.ndarray) -> list[Check]:
    """Return the largest difference of two arrays of outputs, and the cosine between them: of vectors [B, C] that of
    the sample where it is least. Of numbers [B], which have no direction each, the difference has a bar as well."""
    a, b = (np.asarray(each, dtype=np.float64) for each in (ours, theirs))
    far = float(np.abs(a - b).max()) if a.size else 0.0
    checks = [Check("largest difference", f"{far:.2g}")]
    if a.ndim == 1:
        spread = max(a.std(), LEAST_SPREAD * np.abs(a).max(initial=0))
        share = far / spread if far != 0 else 0.0
        checks.append(Check("of their spread", f"{share:.2g}", f"< {MOST_OF_SPREAD}", share < MOST_OF_SPREAD))
        a, b = a[None], b[None]
    product = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    cosines = np.divide((a * b).sum(axis=1), product, out=np.zeros_like(product), where=product > 0)
    cosine = float(np.where((a == b).all(axis=1), 1.0, cosines).min(initial=1.0))
    close = cosine > LEAST_COSINE  # false for NaN
    return [*checks, Check("cosine", f"{cosine:.6f}", f"> {LEAST_COSINE}", close)]


def same_labels(ours: np.ndarray, theirs: np.ndarray) -> Check:
    """Return whether the likeliest class is the same for all samples [B, C]; of equal ones, which are told, either."""
    rows, answer = np.arange(len(ours)), theirs.argmax(axis=1)
    same = ours.max(axis=1) - ours[rows, answer] <= TIE
    count, ties = int(same.sum()), int((same & (answer != ours.argmax(axis=1))).sum())
    return Check("same top-1", f"{count} of {len(ours)}{told_ties(ties)}", "all", count == len(ours))


def told_ties(count: int) -> str:
    """`, 2 by ties`; empty for none."""
    return f", {count} by {'a tie' if count == 1 else 'ties'}" if count else ""
