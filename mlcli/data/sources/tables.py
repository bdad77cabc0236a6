"""CSV tables to rows of features: numbers as they are, categories one-hot, gaps filled; all learned from training rows.

The encoding is plain data, `DataInfo.preparation`, and enough to encode new rows with:
    columns   {"name", "kind": "number", "missing": median} or {"name", "kind": "category", "values": [...]}
    features  the features that are used, in order: a number's column name, or "column=value" of a category
Standardisation is left to the model, by `DataInfo.mean` and `.std`; one-hot features are not standardised (mean 0,
std 1), so that a value that training never saw, or none, is zero everywhere.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mlcli.data.source import Source
from mlcli.data.sources.csv_file import CsvFile, read_csv
from mlcli.data.sources.features import feature_names, feature_source
from mlcli.data.splits import check_same_classes, split_indices
from mlcli.errors import DataError
from mlcli.text import first_few

if TYPE_CHECKING:
    from mlcli.data.config import TableFile

MISSING = ("", "na", "n/a", "null", "none", "?")
"""Cells that hold no value, in any case. "nan" is not among them: it is what a failed computation writes."""
FLOAT32_MAX = float(np.finfo(np.float32).max)
FEW = 20  # so many different values say nothing yet about what a column is


def table_file(config: "TableFile", *, regression: bool) -> Source:
    """Raises DataError, with all lines of one kind of fault, for what no model could learn from."""
    file = read_csv(config.file)
    file.require([config.target], "data.target")
    file.require(config.drop, "data.drop")
    file.require(config.categorical, "data.categorical")
    _refuse_missing_targets(file, config.target)
    targets, class_names = _numbers_to_predict(file, config.target) if regression else _labels(file, config.target)
    splits = _splits(config, file, targets, class_names)
    used = [name for name in file.header if name not in {config.target, config.split_column, *config.drop}]
    if not used:
        raise DataError("no column is left to learn from", where=str(file.path), fix="drop fewer columns: data.drop")
    notes: list[str] = []
    columns = [_fit_column(file, name, splits["train"], name in config.categorical, notes) for name in used]
    rows = _encode(columns, {name: file.column(name) for name in used})
    return feature_source(
        rows,
        targets,
        splits,
        columns=columns,
        class_names=class_names,
        target=config.target if regression else "label",
        origin=str(file.path),
        numbers=file.lines,
        select=config.select,
        notes=tuple(notes),
    )


def prepare_rows(preparation: dict[str, Any], rows: Sequence[dict[str, str]]) -> Tensor:
    """New rows, as `csv.DictReader` gives them, encoded as the training rows were: float32 [B, F].

    Gaps become the training median. Raises DataError for missing columns and for text where numbers belong.
    """
    columns = preparation["columns"]
    names = [column["name"] for column in columns]
    absent = [name for name in names if any(name not in row for row in rows)]
    if absent:
        raise DataError(
            f"columns the model was trained with are missing: {first_few([repr(name) for name in absent])}",
            where=f"columns found: {first_few([repr(name) for name in rows[0]])}",
            fix="add them; cells may stay empty where a value is not known",
        )
    cells = {name: [(row[name] or "").strip() for row in rows] for name in names}
    for column in columns:
        name = column["name"]
        wrong = [number for number, cell in enumerate(cells[name], 1) if _bad_number(cell)]
        if column["kind"] == "number" and wrong:
            raise DataError(
                f"'{cells[name][wrong[0] - 1]}' in column '{name}' is not a finite number",
                where="rows " + first_few([str(number) for number in wrong]),
                fix="write a number, or leave the cell empty",
            )
    every, _ = feature_names(columns)
    chosen = [every.index(feature) for feature in preparation["features"]]
    return torch.from_numpy(_encode(columns, cells)[:, chosen].astype(np.float32))


def _splits(
    config: "TableFile", file: CsvFile, targets: np.ndarray, class_names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    if config.split_column is None:
        labels = targets if class_names else None
        shares = {"val": config.val, "test": config.test}
        return split_indices(
            len(targets),
            shares,
            config.split_seed,
            labels=labels,
            class_names=class_names,
            unit="rows",
            where=str(file.path),
        )
    splits = file.split_indices(config.split_column)
    if class_names:
        check_same_classes(
            {split: targets[rows] for split, rows in splits.items()}, class_names, "rows", str(file.path)
        )
    return splits


def _refuse_missing_targets(file: CsvFile, target: str) -> None:
    gaps = [(row, "") for row, cell in enumerate(file.column(target)) if _is_missing(cell)]
    file.refuse(f"the target '{target}' is missing", gaps, "fill these cells or remove the lines")


def _numbers_to_predict(file: CsvFile, target: str) -> tuple[np.ndarray, tuple[str, ...]]:
    cells = file.column(target)
    wrong = [(row, repr(cell)) for row, cell in enumerate(cells) if _bad_number(cell)]
    fix = "correct these cells; to predict classes: task: classification"
    file.refuse(f"the target '{target}' is not a finite number", wrong, fix)
    return np.array([float(cell) for cell in cells]), ()


def _labels(file: CsvFile, target: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and the sorted classes: by value if all are whole numbers, else as text."""
    cells = file.column(target)
    values = set(cells)
    whole = all(value.lstrip("-").isdecimal() for value in values)
    class_names = tuple(sorted(values, key=lambda value: (int(value), value)) if whole else sorted(values))
    if len(class_names) < 2:
        raise DataError(
            f"the target '{target}' is '{class_names[0]}' in every row: nothing to tell apart",
            where=str(file.path),
            fix="predict another column: data.target",
        )
    if len(class_names) > max(FEW, len(cells) / 2) and not any(_bad_number(value) for value in values):
        raise DataError(
            f"the target '{target}' has {len(class_names)} different numbers in {len(cells)} rows: no classes",
            where=str(file.path),
            fix="task: regression, or another data.target",
        )
    position = {name: label for label, name in enumerate(class_names)}
    return np.array([position[cell] for cell in cells]), class_names


def _fit_column(file: CsvFile, name: str, train: np.ndarray, categorical: bool, notes: list[str]) -> dict[str, Any]:
    """Learn how a column is encoded from its training rows, and check all of its cells."""
    cells = file.column(name)
    known = [cells[row] for row in train if not _is_missing(cells[row])]
    if not known:
        raise DataError(
            f"column '{name}' is empty in the training split", where=str(file.path), fix=f"data.drop=[{name}]"
        )
    gaps = sum(map(_is_missing, cells))
    if not categorical and sum(map(_bad_number, known)) < len(known) / 2:
        wrong = [(row, repr(cell)) for row, cell in enumerate(cells) if _bad_number(cell)]
        fix = (
            f"correct or empty these cells, or data.categorical=[{name}] if they are categories, or data.drop=[{name}]"
        )
        file.refuse(f"column '{name}' holds numbers, but not everywhere finite ones", wrong, fix)
        median = float(np.median(np.array(known, dtype=float)))
        if gaps:
            notes.append(f"column '{name}': {gaps} missing values become the training median, {median:g}")
        return {"name": name, "kind": "number", "missing": median}
    values = sorted(set(known))
    if not categorical and len(values) > max(FEW, len(known) / 2):
        comma = "; numbers need a decimal point, not a comma" if _is_comma_number(values[0]) else ""
        raise DataError(
            f"column '{name}' has {len(values)} different texts in {len(known)} rows, such as '{values[0]}'",
            where=str(file.path),
            fix=f"data.drop=[{name}], or data.categorical=[{name}] to use it all the same{comma}",
        )
    unseen = sorted({cell for cell in cells if not _is_missing(cell)} - set(values))
    if unseen:
        notes.append(
            f"column '{name}': not in the training split, so all zeros: {first_few([repr(v) for v in unseen])}"
        )
    if gaps:
        notes.append(f"column '{name}': {gaps} missing values are all zeros")
    return {"name": name, "kind": "category", "values": values}


def _encode(columns: list[dict[str, Any]], cells: dict[str, list[str]]) -> np.ndarray:
    """float64 [N, F], all features of all columns."""
    parts = []
    for column in columns:
        texts = cells[column["name"]]
        if column["kind"] == "number":
            numbers = [column["missing"] if _is_missing(text) else float(text) for text in texts]
            parts.append(np.array(numbers, dtype=float)[:, None])
        else:
            parts.append(np.array(texts)[:, None] == np.array(column["values"])[None, :])
    return np.concatenate(parts, axis=1, dtype=float)


def _is_missing(cell: str) -> bool:
    return cell.lower() in MISSING


def _bad_number(cell: str) -> bool:
    """Neither a gap nor a number that float32 can hold."""
    if _is_missing(cell):
        return False
    try:
        return not abs(float(cell)) <= FLOAT32_MAX  # also when NaN
    except ValueError:
        return True


def _is_comma_number(cell: str) -> bool:
    return "," in cell and not _bad_number(cell.replace(",", ".", 1))
