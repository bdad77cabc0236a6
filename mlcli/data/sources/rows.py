"""Rows of tables as the features that a model takes: what `DataInfo.preparation` says of each column, applied.

No torch in here, so that an exported model can be asked without it. The encoding is learned in `tables`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlcli.data.info import features_of
from mlcli.data.sources.columns import Column, Form, read_column, without
from mlcli.errors import DataError
from mlcli.schema.explain import closest
from mlcli.text import first_few


def prepare_rows(preparation: dict[str, Any], rows: Sequence[dict[str, str]]) -> np.ndarray:
    """New rows, as `csv.DictReader` gives them, encoded as the training rows were: float32 [B, F].

    Gaps become the training median. Raises DataError for missing columns and for text where numbers belong.
    """
    names = [encoding["name"] for encoding in preparation["columns"]]
    present = [name for name in rows[0] if all(name in row for row in rows)]
    cells = {name: [(row[name] or "").strip() for row in rows] if name in names else [] for name in present}
    return features(preparation, cells, lambda wrong: "rows " + first_few(str(row + 1) for row in wrong))


def features(
    preparation: dict[str, Any], cells_of: dict[str, list[str]], where: Callable[[list[int]], str]
) -> np.ndarray:
    """The cells of columns, by name, encoded as the training rows were: float32 [N, F]. where: of rows, for errors.

    Raises DataError for missing columns and for text where numbers belong.
    """
    encodings = preparation["columns"]
    absent = [encoding["name"] for encoding in encodings if encoding["name"] not in cells_of]
    if absent:
        what = f"columns the model was trained with are missing: {first_few(map(repr, absent))}"
        fix = "add them; cells may stay empty where a value is not known"
        if near := {name: found for name in absent if (found := closest(name, cells_of))}:
            fix = f"rename {first_few(f'{found!r} to {name!r}' for name, found in near.items())}, or {fix}"
        raise DataError(what, where=f"columns found: {first_few(map(repr, cells_of))}", fix=fix)
    parts = []
    for encoding in encodings:
        name = encoding["name"]
        cells = without(cells_of[name], encoding.get("missing_values", ()))
        form = Form(encoding.get("decimal", "plain"), encoding.get("affix", ""))
        column = read_column(name, cells, numeric=encoding["kind"] == "number", form=form)
        if len(wrong := column.wrong.tolist()):
            what = f"'{cells[wrong[0]]}' in column '{name}' is not a finite number"
            raise DataError(what, where=where(wrong), fix="write a number, or leave the cell empty")
        parts.append(encoded(column, encoding))
    every = [feature for encoding in encodings for feature in features_of(encoding)]
    chosen = [every.index(feature) for feature in preparation["features"]]
    rows_of_features = np.concatenate(parts, axis=1, dtype=float)[:, chosen] - preparation.get("offsets", 0.0)
    return rows_of_features.astype(np.float32)


def encoded(column: Column, encoding: dict[str, Any]) -> np.ndarray:
    """A column's features: float64 or bool [N, F]."""
    if column.numbers is not None:
        return np.where(column.missing, encoding["missing"], column.numbers)[:, None]
    position = {value: number for number, value in enumerate(encoding["values"])}
    codes = np.array([position.get(cell, -1) for cell in column.cells])
    return codes[:, None] == np.arange(len(position))
