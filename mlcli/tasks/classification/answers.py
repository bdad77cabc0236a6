"""Probabilities as labels: what a classifier's predictions become for people. No torch in here."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mlcli.tasks.answers import SampleAnswers

if TYPE_CHECKING:
    from PIL.Image import Image

    from mlcli.engine.predicting import Record


class ClassAnswers(SampleAnswers):
    """Answers of a label each."""

    output_names: ClassVar[tuple[str, ...]] = ("probabilities",)

    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        return ((self.info.num_classes,),)

    def plain(self, predictions: np.ndarray, top: int | None = None) -> "list[Record]":
        """Return probabilities [B, C] as label, its probability, and the probabilities in label order.

        Rounded to 6 decimals; a float32 knows no more. top: keep only that many, the likeliest first.
        """
        names = self.info.class_names
        best = predictions.argmax(axis=1).tolist()
        records = []
        for c, row in zip(best, predictions.astype(np.float64).round(6).tolist(), strict=True):
            each = list(zip(names, row, strict=True))
            if top is not None:
                each = sorted(each, key=lambda item: -item[1])[:top]
            records.append({"label": names[c], "probability": row[c], "probabilities": dict(each)})
        return records

    def rows(self, record: "Record") -> "list[Record]":
        """Return the record as one row, with a column `p_<class>` for each probability."""
        probabilities = record.get("probabilities", {})
        row = {key: value for key, value in record.items() if key != "probabilities"}
        return [row | {f"p_{name}": value for name, value in probabilities.items()}]

    def caption(self, record: "Record") -> str:
        """Return the label."""
        return record["label"]

    def picture(self, image_path: Path, record: "Record") -> "Image":
        """Return an image with its answer below it. Raises DataError if it cannot be read."""
        from mlcli.tasks.classification.pictures import annotate

        return annotate(image_path, record["label"], record["probability"])
