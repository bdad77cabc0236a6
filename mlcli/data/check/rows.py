"""A table as the doctor sees it: columns of cells or numbers, a target, a split for each row."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mlcli.data.check.cells import Cells, read_cells, split_of_rows
from mlcli.data.check.finding import Finding
from mlcli.data.source import Arrays, Source
from mlcli.data.splits import split_indices
from mlcli.errors import DataError
from mlcli.text import plural

if TYPE_CHECKING:
    from mlcli.data.config import TableFile

MISSING = ("", "na", "n/a", "null", "none", "?")
"""As in sources/tables.py."""


@dataclass(frozen=True, eq=False)
class Column:
    """One column that is learned from.

    texts: the cells as written; empty where there is no value.
    numbers: float64 [N], NaN for gaps and for what is no number; None for a column of texts.
    wrong: rows whose cell should be a finite number and is not.
    """

    name: str
    texts: np.ndarray
    numbers: np.ndarray | None
    wrong: tuple[int, ...] = ()

    @property
    def missing(self) -> np.ndarray:
        """bool [N]"""
        return self.texts == ""

    @cached_property
    def codes(self) -> np.ndarray:
        """int64 [N]: equal values have equal codes; a gap is a value of its own. 1 and 1.0 are equal."""
        values: np.ndarray = self.texts if self.numbers is None else self.numbers
        return np.unique(values, return_inverse=True)[1].astype(np.int64).ravel()


@dataclass(eq=False)
class Rows:
    """labels: int64 [N] (-1 for a missing label) where classes are predicted, otherwise numbers: float64 [N]."""

    columns: list[Column]
    split_of: np.ndarray
    names: tuple[str, ...]
    target: str
    class_names: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    numbers: np.ndarray | None = None
    findings: list[Finding] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.split_of)

    @property
    def answers(self) -> np.ndarray:
        """What is predicted, as codes: int64 [N]."""
        if self.labels is not None:
            return self.labels
        assert self.numbers is not None
        return np.unique(self.numbers, return_inverse=True)[1].astype(np.int64).ravel()

    def splits(self) -> list[str]:
        return [split for split in ("train", "val", "test") if (self.split_of == split).any()]

    def places(self, rows: np.ndarray) -> tuple[str, ...]:
        return tuple(self.names[row] for row in np.asarray(rows).tolist())


def rows_of_source(source: Source) -> Rows:
    """A table that comes with scikit-learn, or the exclusive or: numbers only."""
    parts = {split: part for split, part in source.splits.items() if isinstance(part, Arrays)}
    inputs = np.concatenate([part.inputs.numpy().astype(np.float64) for part in parts.values()])
    targets = np.concatenate([part.targets.numpy() for part in parts.values()])
    columns = [
        Column(name, np.array([f"{value:g}" for value in inputs[:, number]]), inputs[:, number])
        for number, name in enumerate(source.info.preparation["features"])
    ]
    return Rows(
        columns,
        np.repeat(list(parts), [len(part) for part in parts.values()]),
        tuple(part.name(row) for part in parts.values() for row in range(len(part))),
        source.info.target,
        source.info.class_names,
        labels=targets.astype(np.int64) if source.info.class_names else None,
        numbers=None if source.info.class_names else targets.astype(np.float64),
    )


def rows_of_file(config: "TableFile", *, regression: bool) -> Rows:
    """A CSV file; no rows, but findings, if there are none or no target."""
    cells = read_cells(config.file)
    findings = list(cells.findings)
    split_of, problems = split_of_rows(cells, config.split_column)
    findings += problems
    for key, names in (("data.drop", config.drop), ("data.categorical", config.categorical)):
        for name in names:
            cells.has({key: name}, findings)
    if not cells.has({"data.target": config.target}, findings) or not cells.rows:
        return Rows([], np.zeros(0, dtype=str), (), config.target, findings=findings)
    used = [name for name in cells.header if name not in {config.target, config.split_column, *config.drop}]
    rows = Rows(
        [_column(cells, name, name in config.categorical) for name in used],
        np.array(split_of),
        cells.places(range(len(cells.rows))),
        config.target,
        findings=findings,
    )
    _read_target(rows, cells, regression)
    if config.split_column is None:
        _divide(rows, config)
    return rows


def _column(cells: Cells, name: str, categorical: bool) -> Column:
    """Numbers if most cells are, as in training."""
    texts = np.array(["" if cell.lower() in MISSING else cell for cell in cells.column(name)])
    numbers = np.array([_number(cell) for cell in texts.tolist()])
    known = texts != ""
    wrong = known & ~np.isfinite(numbers)
    if categorical or not known.any() or wrong.sum() >= known.sum() / 2:
        return Column(name, texts, None)
    return Column(name, texts, np.where(np.isfinite(numbers), numbers, np.nan), tuple(np.flatnonzero(wrong).tolist()))


def _number(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        return np.nan
    return value if abs(value) <= np.finfo(np.float32).max else np.nan


def _read_target(rows: Rows, cells: Cells, regression: bool) -> None:
    column = _column(cells, rows.target, categorical=not regression)
    gaps = np.flatnonzero(column.missing)
    if len(gaps):
        what = f"the target '{rows.target}' is missing in {plural(len(gaps), 'row')}"
        rows.findings.append(
            Finding("error", "target-missing", what, rows.places(gaps), "fill these cells, or remove the lines")
        )
    if not regression:
        rows.class_names = tuple(_in_order({text for text in column.texts.tolist() if text}))
        position = {name: label for label, name in enumerate(rows.class_names)}
        rows.labels = np.array([position.get(text, -1) for text in column.texts.tolist()], dtype=np.int64)
        return
    numbers = np.array([_number(cell) for cell in column.texts.tolist()])
    wrong = np.flatnonzero(~np.isfinite(numbers) & ~column.missing)
    if len(wrong):
        what = f"the target '{rows.target}' is not a finite number in {plural(len(wrong), 'row')}"
        places = cells.places(wrong.tolist(), [repr(text) for text in column.texts.tolist()])
        fix = "correct these cells; to predict classes: task: classification"
        rows.findings.append(Finding("error", "target-no-number", what, places, fix))
    rows.numbers = numbers


def _in_order(names: set[str]) -> list[str]:
    """By value if all are whole numbers, as in training."""
    whole = all(name.lstrip("-").isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name), name)) if whole else sorted(names)


def _divide(rows: Rows, config: "TableFile") -> None:
    """The splits that training will make, unless it cannot; the builder says why not."""
    if rows.labels is not None and (rows.labels < 0).any():
        return
    shares = {"val": config.val, "test": config.test}
    try:
        indices = split_indices(
            len(rows), shares, config.split_seed, labels=rows.labels, class_names=rows.class_names, unit="rows"
        )
    except (DataError, ValueError):
        return
    split_of = rows.split_of.astype("U5")
    for split, chosen in indices.items():
        split_of[chosen] = split
    rows.split_of = split_of
