"""CSV tables to rows of features: numbers as they are, categories one-hot, gaps filled; all learned from training rows.

`read_table` is lenient and lists what is wrong, `table_source` refuses it. The encoding is plain data,
`DataInfo.preparation`, and enough to encode new rows with:
    columns   {"name", "kind": "number", "missing": median} with "decimal" and "affix" of their `Form` unless it is the
              plain one; or {"name", "kind": "category", "values": [...]}
    features  the features that are used, in order: a number's column name, or "column=value" of a category
    offsets   of each feature, what is taken from it before it becomes float32; absent where all are 0
Of a number to predict also target_mean and target_std, and target_offset if it has one; the mean is without it.
Standardisation is left to the model, by `DataInfo.mean` and `.std`; one-hot features are not standardised (mean 0,
std 1), so that a value that training never saw, or none, is zero everywhere.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from mlcli.data.config import FeatureSelection, TableFile
from mlcli.data.finding import Finding, Severity, refuse
from mlcli.data.fingerprints import of_columns, of_samples
from mlcli.data.info import DataInfo
from mlcli.data.source import Arrays, Source
from mlcli.data.sources.arrays import feature_source
from mlcli.data.sources.columns import FEW, Column, Decimal, Form, read_column
from mlcli.data.sources.csv_file import CsvFile, read_csv
from mlcli.data.sources.rows import encoded, features
from mlcli.data.splits import (
    SPLITS,
    Divisible,
    check_same_classes,
    groups_together,
    hold_out,
    one_of_each,
    refuse_emptied,
    rows_of,
    sorted_classes,
    told_alike,
    told_several,
)
from mlcli.engine.contract import Samples
from mlcli.engine.membership import KnownData
from mlcli.errors import DataError
from mlcli.schema.yaml12 import as_list
from mlcli.text import first_few, plural

CODES = [sign * (10.0**digits - 1) for digits in range(2, 10) for sign in (1, -1)]
"""Numbers of nines, which are often written where there is no value."""


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """A table as it was read: columns to learn from and what is to be predicted.

    origin: the file, or the data set's name.
    lines: int64 [N], the number of each row, which stands behind `numbering`: `line 7`, `iris:7`.
    split_of: int8 [N], positions in SPLITS; train where the rows could not be divided.
    labels: int64 [N] (-1 for a missing label) where classes are predicted, otherwise amounts: float64 [N] (NaN).
    findings: what is wrong with single cells, rows and columns.
    missing_values: what cells held no value, besides what never is one.
    refusal: why the target or the splits are not fit to learn from; None if they are.
    known: the rows of each split, int64 [n], as a run divided them; other rows are in none.
    """

    origin: str
    columns: list[Column]
    split_of: np.ndarray
    lines: np.ndarray
    target: str
    class_names: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    amounts: np.ndarray | None = None
    numbering: str = "line "
    findings: tuple[Finding, ...] = ()
    missing_values: tuple[str | float, ...] = ()
    refusal: DataError | None = None
    known: dict[str, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.split_of)

    @property
    def splits(self) -> dict[str, np.ndarray]:
        """The rows of each split that has any: int64 [n], ascending unless a run has them in another order."""
        return rows_of(self.split_of) if self.known is None else self.known

    def name(self, row: int) -> str:
        return f"{self.numbering}{self.lines[row]}"

    def places(self, rows: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.name(row) for row in rows)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_table(config: TableFile, *, regression: bool = False, known: KnownData | None = None) -> FeatureTable:
    """A CSV file of numbers and categories, one sample a row. Never raises.

    Args:
        regression: whether the target is a number to predict; otherwise it is a class.
        known: what a run knows of the rows, which are divided as it did.
    """
    table, target, split_of, findings = _rows(config, regression, known)
    empty = FeatureTable(str(config.file), [], split_of[:0], table.lines[:0], target)
    if target not in table.header or not table.rows:
        return replace(empty, findings=tuple(findings))
    used = [name for name in table.header if name not in {target, config.split_column, *config.drop}]
    form = read_column(target, table.column(target), decimal=config.decimal).form
    if form.decimal == "comma" and config.decimal != "comma":  # of a target only where the config says so
        form = Form()
    of_target = partial(read_column, target, numeric=regression, form=form)
    if config.missing_target == "drop":
        kept = np.flatnonzero(~of_target(table.column(target)).missing)
        if dropped := len(table.rows) - len(kept):
            what = f"the target '{target}' is missing in {plural(dropped, 'row')}, left out"
            findings.append(Finding("note", "target-missing", what))
        table, split_of = table.only(kept), split_of[kept]
    as_given = split_of
    table, split_of, copies = _settled(table, split_of, config.duplicates, used, target, findings)
    try:
        if known is None:
            refuse_emptied(as_given, split_of, empty.origin)
    except DataError as error:
        return replace(empty, findings=tuple(findings), refusal=error)
    column = of_target(table.column(target))
    findings += _target_faults(table, column)
    labels, class_names = (None, ()) if regression else _labels(column)
    refusal = of_run = None
    try:
        if labels is not None and known is None:
            _refuse_no_classes(table, target, class_names)
        split_of = _divided(table, config, split_of, labels, class_names, copies)
    except DataError as error:
        refusal = error
    if not used:
        what = "no column is left to learn from"
        findings.append(Finding("error", "no-columns", what, (), "drop fewer columns: data.drop"))
    mark: Decimal = "auto_comma" if config.decimal == "auto" and table.delimiter == ";" else config.decimal
    if known is not None and used:
        values = column.numbers if labels is None else labels
        assert values is not None, "a column that is read as numbers has them"
        raw = [read_column(name, table.column(name), decimal=mark) for name in used]
        prints = of_samples(of_columns(raw)[:, None], values, class_names)
        now, refusal = {} if refusal else rows_of(split_of), None
        try:
            of_run = known.divide(prints, now, () if config.split_column else SPLITS, empty.origin)
            if labels is not None:
                of_run, labels = known.relabelled(of_run, labels, class_names, empty.origin)
            split_of = np.full_like(split_of, -1)
            split_of[of_run["train"]] = 0
        except DataError as error:
            refusal = error
    if known is not None and known.info:  # what the columns are is known, and what they have to be as well
        needed = {encoding["name"] for encoding in known.info["preparation"].get("columns", ())}
        columns = [read_column(name, table.column(name)) for name in used if name in needed]
    else:
        columns = [_typed(table, name, mark, split_of == 0, name in config.categorical, findings) for name in used]
    return FeatureTable(
        empty.origin, columns, split_of, table.lines, target, class_names, labels, column.numbers,
        findings=tuple(findings), missing_values=config.missing_values, refusal=refusal, known=of_run,
    )  # fmt: skip


def _rows(
    config: TableFile, regression: bool, known: KnownData | None
) -> tuple[CsvFile, str, np.ndarray, list[Finding]]:
    """Return the file with the target as one column, that column's name, the split of each row, int8 [N], and what is
    wrong with the file and its columns."""
    table, target = read_csv(config.file).without(config.missing_values), config.target
    targets = [target] if isinstance(target, str) else [*target]
    findings = [*table.faults, *table.absent(targets, "data.target")]
    if isinstance(target, str) and known is None:
        findings += _one_of_several(table, target, config.drop, regression)
    table, target = table.one_label(targets)
    if known is None or known.purpose != "measure":  # new data have what the model needs, or that is told
        findings += table.absent(config.drop, "data.drop") + table.absent(config.categorical, "data.categorical")
    split_of = np.zeros(len(table.rows), dtype=np.int8)
    if config.split_column is not None:
        split_of, problems = table.split_of(config.split_column)
        findings += problems
    return table, target, split_of, findings


def _one_of_several(table: CsvFile, target: str, drop: Sequence[str], regression: bool) -> list[Finding]:
    """Return an error if the target is one column of a one-hot label, whose others give it away."""
    if target not in table.header:
        return []
    indicators = table.indicators([name for name in table.header if name not in drop], target)
    if not indicators:
        return []
    others = as_list("data.drop", [name for name in indicators if name != target])
    what = f"'{target}' is one of {len(indicators)} columns that together are one label: in each row one of them is 1"
    fix = f"{as_list('data.target', indicators)}; to tell only '{target}' from the rest, {others}"
    fix = f"task: classification and {fix}" if regression else fix
    return [Finding("error", "one-hot-target", what, indicators, fix)]


def _equal_rows(table: CsvFile, names: Sequence[str]) -> np.ndarray:
    """Return the group of each row, int64 [N]: the same number for rows that are equal in these columns."""
    columns = [read_column(name, table.column(name)) for name in names]
    codes = [(replace(column, numbers=None) if len(column.wrong) else column).codes for column in columns]
    if not codes:
        return np.arange(len(table.rows))
    return np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)[1].ravel()


def _settled(
    table: CsvFile,
    split_of: np.ndarray,
    duplicates: Literal["keep", "one_split", "drop"],
    used: Sequence[str],
    target: str,
    findings: list[Finding],
) -> tuple[CsvFile, np.ndarray, np.ndarray | None]:
    """Return the rows and their splits with equal rows in one split, or left out but for one, which is a finding; and
    the group of each row, int64 [N], where equal ones are to be divided together."""
    if duplicates == "one_split":
        copies = _equal_rows(table, used)
        return table, groups_together(copies, split_of), copies
    if duplicates == "keep":
        return table, split_of, None
    kept = one_of_each(_equal_rows(table, [*used, target]), split_of)
    if dropped := len(table.rows) - len(kept):
        what = f"{plural(dropped, 'row equals another and is', 'rows equal others and are')} left out"
        findings.append(Finding("note", "duplicates-settled", what))
    return table.only(kept), split_of[kept], None


def _target_faults(table: CsvFile, column: Column) -> list[Finding]:
    """Rows without a usable value to predict, and numbers that may be classes."""
    found = []
    readable = [cell for cell in column.cells if np.isfinite(column.form.read(cell))]
    if column.form != Form() and readable:
        what = f"the target's {readable[0]} is read as {column.form.read(readable[0]):g}"
        found.append(Finding("note", "target-form", what))
    if gaps := np.flatnonzero(column.missing).tolist():
        what = f"the target '{column.name}' is missing in {plural(len(gaps), 'row')}"
        words = column.gap_words if column.numbers is None else ()
        fix = f"if {first_few(words)} is a class, call it otherwise; if not, " if words else ""
        fix += "fill these cells, or leave the rows out: data.missing_target=drop"
        found.append(Finding("error", "target-missing", what, table.places(gaps), fix))
    if wrong := column.wrong.tolist():
        what = f"the target '{column.name}' is not a finite number in {plural(len(wrong), 'row')}"
        places = table.places(wrong, [repr(cell) for cell in column.cells])
        fix = "correct these cells; to predict classes: task: classification"
        commas = read_column(column.name, column.cells)
        if commas.form.decimal == "comma":
            fix = f"if the comma of {column.cells[wrong[0]]} is a decimal comma: data.decimal=comma"
            fix += "; if it separates thousands: data.decimal=point" if commas.unclear else ""
        found.append(Finding("error", "target-no-number", what, places, fix))
    found += [] if column.numbers is None else _codes(table, column)
    numbers = np.zeros(0) if column.numbers is None else column.numbers
    if len(values := np.unique(numbers[np.isfinite(numbers)])) == 2:
        what = f"the target '{column.name}' has two values only, {values[0]:g} and {values[1]:g}, which may be classes"
        found.append(Finding("warning", "two-values", what, (), "to learn them as classes: task: classification"))
    return found


def _labels(column: Column) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels, -1 for a gap, and the sorted classes."""
    class_names = sorted_classes({cell for cell, gap in zip(column.cells, column.missing, strict=True) if not gap})
    position = {name: label for label, name in enumerate(class_names)}
    return np.array([position.get(cell, -1) for cell in column.cells], dtype=np.int64), class_names


def _refuse_no_classes(table: CsvFile, target: str, class_names: tuple[str, ...]) -> None:
    """Raise DataError unless the target is one of several classes."""
    if len(class_names) < 2:
        what = f"the target '{target}' is '{first_few(class_names)}' in every row: nothing to distinguish"
        raise DataError(what, where=str(table.path), fix="predict another column: data.target")
    many = len(class_names) > max(FEW, len(table.rows) / 2)
    if many and not len(read_column(target, list(class_names)).wrong):
        what = f"the target '{target}' has {len(class_names)} different numbers in {len(table.rows)} rows: no classes"
        raise DataError(what, where=str(table.path), fix="task: regression, or another data.target")


def _divided(
    table: CsvFile,
    config: TableFile,
    given: np.ndarray,
    labels: np.ndarray | None,
    class_names: tuple[str, ...],
    copies: np.ndarray | None,
) -> np.ndarray:
    """The split of each row, int8 [N]. Raises DataError if the splits lack classes, or cannot be made."""
    if labels is not None and (labels < 0).any():  # refused for that; rows without a class cannot be stratified
        return given
    if config.split_column is None:
        rows = Divisible(len(given), labels, class_names, copies, "rows", str(table.path))
        return hold_out(rows, given, {"val": config.val, "test": config.test}, config.split_seed)
    if labels is not None:
        of_split = {split: labels[rows] for split, rows in rows_of(given).items()}
        check_same_classes(of_split, class_names, "rows", str(table.path))
    return given


def _typed(
    table: CsvFile, name: str, decimal: Decimal, train: np.ndarray, categorical: bool, findings: list[Finding]
) -> Column:
    """A column of numbers if most cells of the training rows are, of categories otherwise. train: bool [N]"""
    column = read_column(name, table.column(name), decimal=decimal)
    known = train & ~column.missing
    total = int(known.sum())
    if not total:
        what = f"column '{name}' is empty in the training split"
        findings.append(Finding("error", "empty-column", what, (), as_list("data.drop", [name])))
        return replace(column, numbers=None)
    wrong = column.wrong
    if not categorical and known[wrong].sum() < total / 2:
        if len(wrong):
            what = f"column '{name}' holds finite numbers, but not in {plural(len(wrong), 'row')}"
            places = table.places(wrong.tolist(), [repr(cell) for cell in column.cells])
            fix = f"correct or empty these cells, or {as_list('data.categorical', [name])} if they are categories, "
            findings.append(Finding("error", "no-number", what, places, f"{fix}or {as_list('data.drop', [name])}"))
        findings += _unclear(table, column) + _codes(table, column)
        return column
    values = sorted({column.cells[row] for row in np.flatnonzero(known).tolist()})
    free_text = not categorical and len(values) > max(FEW, total / 2)
    if not categorical and len(values) > max(FEW, total / 10):
        first = {column.cells[row]: row for row in np.flatnonzero(known)[::-1].tolist()}
        examples = sorted(first.values())[:3]
        what = f"column '{name}' has {len(values):,} different texts in {total:,} rows, "
        what += "nearly one a row" if free_text else "each of which becomes a feature"
        fix = f"{as_list('data.drop', [name])}, or {as_list('data.categorical', [name])} to use it all the same; "
        fix += "numbers have no unit behind"
        places = table.places(examples, [repr(cell) for cell in column.cells])
        severity: Severity = "error" if free_text else "warning"
        findings.append(Finding(severity, "free-text" if free_text else "many-texts", what, places, fix))
    return replace(column, numbers=None, free_text=free_text)


def _unclear(table: CsvFile, column: Column) -> list[Finding]:
    """An error if the commas of a column can be decimal commas or separate thousands."""
    if not column.unclear:
        return []
    forms = [Form(mark, column.form.affix) for mark in ("comma", "point")]
    both = {cell: [form.read(cell) for form in forms] for cell in dict.fromkeys(column.cells)}
    rows = [row for row, cell in enumerate(column.cells) if np.ptp(both[cell]) > 0]
    one = column.cells[rows[0]]
    what = f"numbers of column '{column.name}' can mean two things: {one} is {both[one][0]:g} or {both[one][1]:g}"
    places = table.places(rows, [repr(cell) for cell in column.cells])
    return [Finding("error", "unclear-comma", what, places, "data.decimal=comma or data.decimal=point")]


def _codes(table: CsvFile, column: Column) -> list[Finding]:
    """A warning for each of -999, 9999 and the like that stands apart from the column's other numbers."""
    numbers = column.numbers
    assert numbers is not None
    coded = np.isin(numbers, CODES)
    others = numbers[~coded & np.isfinite(numbers)]
    if not coded.any() or not len(others):
        return []
    low, high, found = others.min(), others.max(), []
    for value in np.unique(numbers[coded]).tolist():
        rows = np.flatnonzero(numbers == value).tolist()
        apart = value < min(low, 0) if low >= 0 else value < low - (high - low)
        if len(rows) > 1 and (apart or value > high + (high - low)):
            what = f"column '{column.name}' is {value:g} in {plural(len(rows), 'row')}, {low:g} to {high:g} in others: "
            what += "if it stands for no value, it is learned as a number all the same"
            fix = f"data.missing_values=[{value:g}]"
            found.append(Finding("warning", "code-for-missing", what, table.places(rows), fix))
    return found


# --- samples ---------------------------------------------------------------------------------------------------------


def table_source(
    table: FeatureTable,
    select: FeatureSelection | None = None,
    *,
    info: dict[str, Any] | None = None,
    centred: bool = True,
) -> Source:
    """The rows as samples, with all features or those that are selected.

    info: `DataInfo.to_plain()` of a saved model, whose features these are then; its classes are the labels' already.
    centred: whether large offsets are taken from columns, as version 0.1.0 did not.

    Raises DataError, with all rows of one kind of fault, for what no model could learn from, and for a column or number
    that the saved model misses.
    """
    refuse(table.findings, table.origin)
    if table.refusal is not None:
        raise table.refusal
    targets, target = (table.labels, "label") if table.labels is not None else (table.amounts, table.target)
    assert targets is not None
    if info is not None:
        known = DataInfo.from_plain(info)
        cells = {column.name: column.cells for column in table.columns}
        inputs = features(known.preparation, cells, lambda wrong: first_few(table.places(wrong)))
        if table.labels is None:
            targets = (targets - known.preparation.get("target_offset", 0.0)).astype(np.float32)
        everything = Arrays(torch.from_numpy(inputs), torch.from_numpy(targets), table.origin, table.lines)
        splits: dict[str, Samples] = {split: everything.only(rows) for split, rows in table.splits.items()}
        return Source(replace(known, target=target), splits)
    train = table.split_of == 0
    notes = [f"{finding}; {finding.fix}" if finding.fix else str(finding) for finding in table.findings]
    notes += told_alike(table.class_names) + told_several(table.class_names)
    gaps = {"missing_values": [*table.missing_values]} if table.missing_values else {}
    encodings = [_learned(column, train, notes) | gaps for column in table.columns]
    parts = [encoded(column, encoding) for column, encoding in zip(table.columns, encodings, strict=True)]
    return feature_source(
        np.concatenate(parts, axis=1, dtype=float),
        targets,
        table.splits,
        columns=encodings,
        class_names=table.class_names,
        target=target,
        origin=table.origin,
        numbers=table.lines,
        select=select,
        notes=tuple(notes),
        prints=of_samples(of_columns(table.columns)[:, None], targets, table.class_names),
        centred=centred,
    )


def _learned(column: Column, train: np.ndarray, notes: list[str]) -> dict[str, Any]:
    """Return the encoding of a column, learned from its training rows (bool [N])."""
    name, gaps = column.name, int(column.missing.sum())
    if column.numbers is not None:
        median = float(np.median(column.numbers[train & ~column.missing]))
        if gaps:
            notes.append(f"column '{name}': {gaps} missing values become the training median, {median:g}")
        if column.form != Form():
            example = next(cell for row, cell in enumerate(column.cells) if np.isfinite(column.numbers[row]))
            notes.append(f"column '{name}': {example} is read as {column.form.read(example):g}")
        if column.names_rows:
            without = as_list("data.drop", [name])
            notes.append(f"column '{name}' numbers the rows, which says nothing of new ones; without: {without}")
        written = {key: value for key, value in asdict(column.form).items() if value != getattr(Form(), key)}
        return {"name": name, "kind": "number", "missing": median, **written}
    values = sorted({column.cells[row] for row in np.flatnonzero(train & ~column.missing).tolist()})
    unseen = sorted({column.cells[row] for row in np.flatnonzero(~column.missing).tolist()} - set(values))
    if unseen:
        notes.append(f"column '{name}': not in the training split, so all zeros: {first_few(map(repr, unseen))}")
    if gaps:
        notes.append(f"column '{name}': {gaps} missing values are all zeros")
    return {"name": name, "kind": "category", "values": values}
