"""Numbers in the target's own unit: what a regression's predictions become for people. No torch in here."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mlcli.tasks.answers import SampleAnswers

if TYPE_CHECKING:
    from mlcli.engine.predicting import Record


class NumberAnswers(SampleAnswers):
    """Answers of a number each."""

    output_names: ClassVar[tuple[str, ...]] = ("prediction",)

    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((),)

    @property
    def target_offset(self) -> float:
        """Offset, mostly 0, that targets and predictions are without until people see them (`plain`, `details`)."""
        return self.info.preparation.get("target_offset", 0.0)

    def plain(self, predictions: np.ndarray, top: int | None = None) -> "list[Record]":
        """Return predictions [B] under the target's name, to the 7 digits a float32 knows."""
        return [{self.info.target: float(f"{value:.7g}") + self.target_offset} for value in predictions.tolist()]
