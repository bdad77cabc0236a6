"""What a saved model's predictions become for people, the same whatever computed them. No torch in here.

`SamplePredictor` has a model to make predictions with; of an exported one, a file does that.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from mlcli.data.info import DataInfo
from mlcli.data.inputs import RowInputs, find_inputs

if TYPE_CHECKING:
    from mlcli.engine.predicting import Inputs, Record

NOT_FINITE = "the model's answer is not finite"


class SampleAnswers(ABC):
    """Answers to samples, each independently with a label or a number.

    Args:
        info: what was found in the training data.
        caveat: notes on the answers for the reader.
        path_column: of a CSV file that lists images.
    """

    formats: ClassVar[Mapping[str, Callable[[list[dict[str, Any]]], str]]] = {}
    output_names: ClassVar[tuple[str, ...]]
    """Of the one output of an exported model."""

    def __init__(self, info: DataInfo, *, caveat: str = "", path_column: str = "path") -> None:
        self.info, self.caveat, self.path_column = info, caveat, path_column

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Self:
        """`A.from_facts(a.answer_facts())` answers as `a` does. The facts of an exported file are checked before."""
        caveat, column = str(facts.get("caveat", "")), str(facts.get("path_column", "path"))
        return cls(DataInfo.from_plain(facts["data"]), caveat=caveat, path_column=column)

    def answer_facts(self) -> dict[str, Any]:
        """Return what answering needs, as JSON's types."""
        return {"data": self.info.to_plain(), "caveat": self.caveat, "path_column": self.path_column}

    @abstractmethod
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shape of each output for one sample."""

    @abstractmethod
    def plain(self, predictions: np.ndarray, top: int | None = None) -> "list[Record]":
        """Return finite predictions as plain data; see `mlcli.engine.predicting.Predictor.records`."""

    def inputs(self, paths: Sequence[Path], *, invert: bool = False) -> "Inputs":
        """Return what a person named, prepared as the training data were. Raises DataError or ConfigError."""
        return find_inputs(paths, self.info, path_column=self.path_column, invert=invert)

    def predictions(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return what `records` takes, from the outputs of an exported model."""
        return outputs[0]

    def records(
        self,
        predictions: np.ndarray,
        inputs: "Inputs | None" = None,
        positions: Sequence[int] = (),
        top: int | None = None,
    ) -> "list[Record]":
        """Return predictions as plain data, with an error instead of one that is not finite, and with the categories of
        its row that training never saw, if there are any, as `unknown`."""
        finite = np.isfinite(predictions).reshape(len(predictions), -1).all(axis=1).tolist()
        records = self.plain(predictions, top)
        records = [record if ok else {"error": NOT_FINITE} for record, ok in zip(records, finite, strict=True)]
        if isinstance(inputs, RowInputs):
            for record, position in zip(records, positions, strict=True):
                if unknown := inputs.unknown(position):
                    record["unknown"] = unknown
        return records

    def rows(self, record: "Record") -> "list[Record]":
        """Return the record as the one row of a table that it is."""
        return [record]
