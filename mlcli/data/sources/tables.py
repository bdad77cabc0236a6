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

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mlcli.data.finding import Finding, Severity, refuse
from mlcli.data.fingerprints import of_classes, of_columns, of_numbers, of_samples
from mlcli.data.info import DataInfo
from mlcli.data.source import Arrays, Source
from mlcli.data.sources.arrays import Method, feature_source
from mlcli.data.sources.csv_file import Column, CsvFile, Decimal, Form, read_column, read_csv
from mlcli.data.sources.rows import encoded, features
from mlcli.data.splits import SPLITS, check_same_classes, joined, one_of_each, refuse_emptied, split_indices
from mlcli.engine.membership import Fingerprints, KnownData
from mlcli.errors import DataError
from mlcli.text import first_few, plural

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,4000}")  # Python reads no longer ones
FEW = 20
"""Different values up to which a column may well hold categories."""


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """A table as it was read: columns to learn from and what is to be predicted.

    origin: the file, or the data set's name.
    lines: int64 [N], the number of each row, which stands behind `numbering`: `line 7`, `iris:7`.
    split_of: int8 [N], positions in SPLITS; train where the rows could not be divided.
    labels: int64 [N] (-1 for a missing label) where classes are predicted, otherwise amounts: float64 [N] (NaN).
    findings: what is wrong with single cells, rows and columns.
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
    refusal: DataError | None = None
    known: dict[str, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.split_of)

    @property
    def splits(self) -> dict[str, np.ndarray]:
        """The rows of each split that has any: int64 [n], ascending unless a run has them in another order."""
        if self.known is not None:
            return self.known
        found = {split: np.flatnonzero(self.split_of == code) for code, split in enumerate(SPLITS)}
        return {split: rows for split, rows in found.items() if len(rows)}

    def name(self, row: int) -> str:
        return f"{self.numbering}{self.lines[row]}"

    def places(self, rows: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.name(row) for row in rows)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_table(
    file: Path,
    *,
    target: str | Sequence[str],
    regression: bool = False,
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    split_column: str | None = None,
    val: float = 0.15,
    test: float = 0.15,
    split_seed: int = 0,
    known: KnownData | None = None,
    duplicates: Literal["keep", "one_split", "drop"] = "keep",
    decimal: Literal["auto", "point", "comma"] = "auto",
    drop_missing: bool = False,
) -> FeatureTable:
    """A CSV file of numbers and categories, one sample a row. Never raises.

    Args:
        target: the column to predict; a number if `regression`, otherwise a class. Of one-hot labels all columns.
        drop: columns that are not used.
        categorical: columns of numbers that are to be read as categories.
        split_column: train, val or test for each row; without it, `val`, `test` and `split_seed` divide them.
        known: what a run knows of the rows, which are divided as it did.
        duplicates: whether equal rows are kept, kept in one split, or left out but for one.
        decimal: the mark of numbers; auto where the cells say it, or the semicolons between them.
        drop_missing: leave rows out that have no value to predict.
    """
    table = read_csv(file)
    targets = [target] if isinstance(target, str) else [*target]
    findings = [*table.faults, *table.absent(targets, "data.target")]
    if isinstance(target, str):
        findings += _one_of_several(table, target, drop, regression) if known is None else []
    else:
        table, target = table.one_label(targets) if set(targets) <= set(table.header) else (table, targets[0])
    if known is None or known.purpose != "measure":  # new data have what the model needs, or that is told
        findings += [*table.absent(drop, "data.drop"), *table.absent(categorical, "data.categorical")]
    split_of = np.zeros(len(table.rows), dtype=np.int8)
    if split_column is not None:
        split_of, problems = table.split_of(split_column)
        findings += problems
    if target not in table.header or not table.rows:
        return FeatureTable(str(file), [], split_of[:0], table.lines[:0], target, findings=tuple(findings))
    used = [name for name in table.header if name not in {target, split_column, *drop}]
    mark: Decimal = "auto_comma" if decimal == "auto" and table.delimiter == ";" else decimal
    of_target = partial(read_column, numeric=regression, form=Form() if decimal != "comma" else None, decimal=decimal)
    if drop_missing:
        kept = np.flatnonzero(~of_target(target, table.column(target)).missing)
        if dropped := len(table.rows) - len(kept):
            what = f"the target '{target}' is missing in {plural(dropped, 'row')}, left out"
            findings.append(Finding("note", "target-missing", what))
        table, split_of = table.only(kept), split_of[kept]
    copies, as_given = None, split_of
    if duplicates == "one_split":
        copies = _equal_rows(table, used)
        split_of = joined(copies, split_of)
    elif duplicates == "drop":
        kept = one_of_each(_equal_rows(table, [*used, target]), split_of)
        if dropped := len(table.rows) - len(kept):
            what = f"{plural(dropped, 'row equals another and is', 'rows equal others and are')} left out"
            findings.append(Finding("note", "duplicates-settled", what))
        table, split_of = table.only(kept), split_of[kept]
    try:
        refuse_emptied(as_given, split_of, str(file))
    except DataError as error:
        if known is None:
            lines = table.lines[:0]
            return FeatureTable(str(file), [], split_of[:0], lines, target, findings=tuple(findings), refusal=error)
    column = of_target(target, table.column(target))
    findings += _target_faults(table, column)
    amounts, labels, class_names = column.numbers, None, tuple[str, ...]()
    if amounts is not None and len(values := np.unique(amounts[np.isfinite(amounts)])) == 2:
        what = f"the target '{target}' has two values only, {values[0]:g} and {values[1]:g}, which may be classes"
        findings.append(Finding("warning", "two-values", what, (), "to learn them as classes: task: classification"))
    if not regression:
        labels, class_names = _labels(column)
    refusal = None
    try:
        if labels is not None and known is None:
            _refuse_no_classes(table, target, class_names)
        shares = {"val": val, "test": test}
        split_of = _divided(table, split_of, split_column, labels, class_names, shares, split_seed, copies)
    except DataError as error:
        refusal = error
    if not used:
        what = "no column is left to learn from"
        findings.append(Finding("error", "no-columns", what, (), "drop fewer columns: data.drop"))
    of_run = None
    if known is not None and used:
        raw = [read_column(name, table.column(name), decimal=mark) for name in used]
        if labels is None:
            assert amounts is not None, "a column that is read as numbers has them"
            hashes = of_numbers(amounts)
        else:
            hashes = of_classes(labels, class_names)
        now = {} if refusal else {split: np.flatnonzero(split_of == code) for code, split in enumerate(SPLITS)}
        refusal = None
        try:
            prints = Fingerprints(of_columns(raw)[:, None], hashes)
            of_run = known.divide(prints, now, () if split_column else SPLITS, str(file))
            if labels is not None:
                of_run, labels = known.relabelled(of_run, labels, class_names, str(file))
            split_of = np.full_like(split_of, -1)
            split_of[of_run["train"]] = 0
        except DataError as error:
            refusal = error
    if known is not None and known.info:  # what the columns are is known, and what they have to be as well
        needed = {encoding["name"] for encoding in known.info["preparation"].get("columns", ())}
        columns = [read_column(name, table.column(name)) for name in used if name in needed]
    else:
        columns = [_typed(table, name, mark, split_of == 0, name in categorical, findings) for name in used]
    return FeatureTable(
        str(file), columns, split_of, table.lines, target, class_names, labels, amounts,
        findings=tuple(findings), refusal=refusal, known=of_run,
    )  # fmt: skip


def _one_of_several(table: CsvFile, target: str, drop: Sequence[str], regression: bool) -> list[Finding]:
    """Return an error if the target is one column of a one-hot label, whose others give it away."""
    if target not in table.header:
        return []
    indicators = table.indicators([name for name in table.header if name not in drop], target)
    if not indicators:
        return []
    others = ", ".join(name for name in indicators if name != target)
    what = f"'{target}' is one of {len(indicators)} columns that together are one label: in each row one of them is 1"
    fix = f"data.target=[{', '.join(indicators)}]; to tell only '{target}' from the rest, data.drop=[{others}]"
    fix = f"task: classification and {fix}" if regression else fix
    return [Finding("error", "one-hot-target", what, indicators, fix)]


def _equal_rows(table: CsvFile, names: Sequence[str]) -> np.ndarray:
    """Return the group of each row, int64 [N]: the same number for rows that are equal in these columns."""
    columns = [read_column(name, table.column(name)) for name in names]
    codes = [(replace(column, numbers=None) if len(column.wrong) else column).codes for column in columns]
    if not codes:
        return np.arange(len(table.rows))
    return np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)[1].ravel()


def _target_faults(table: CsvFile, column: Column) -> list[Finding]:
    """Rows without a usable value to predict."""
    found = []
    if gaps := np.flatnonzero(column.missing).tolist():
        what = f"the target '{column.name}' is missing in {plural(len(gaps), 'row')}"
        fix = "fill these cells, or leave the rows out: data.missing_target=drop"
        found.append(Finding("error", "target-missing", what, table.places(gaps), fix))
    if wrong := column.wrong.tolist():
        what = f"the target '{column.name}' is not a finite number in {plural(len(wrong), 'row')}"
        places = table.places(wrong, [repr(cell) for cell in column.cells])
        fix = "correct these cells; to predict classes: task: classification"
        if not read_column(column.name, [column.cells[row] for row in wrong], decimal="comma").wrong.size:
            fix = f"if the comma of {column.cells[wrong[0]]} is a decimal comma: data.decimal=comma"
        found.append(Finding("error", "target-no-number", what, places, fix))
    return found


def _labels(column: Column) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels and the sorted classes: by value if all are whole numbers, else as text."""
    values = {cell for cell, missing in zip(column.cells, column.missing.tolist(), strict=True) if not missing}
    whole = all(WHOLE_NUMBER.fullmatch(value) for value in values)
    class_names = tuple(sorted(values, key=lambda value: (int(value), value)) if whole else sorted(values))
    position = {name: label for label, name in enumerate(class_names)}
    return np.array([position.get(cell, -1) for cell in column.cells], dtype=np.int64), class_names


def _refuse_no_classes(table: CsvFile, target: str, class_names: tuple[str, ...]) -> None:
    """Raise DataError unless the target is one of several classes."""
    if len(class_names) < 2:
        raise DataError(
            f"the target '{target}' is '{first_few(class_names)}' in every row: nothing to distinguish",
            where=str(table.path),
            fix="predict another column: data.target",
        )
    many = len(class_names) > max(FEW, len(table.rows) / 2)
    if many and not len(read_column(target, list(class_names)).wrong):
        raise DataError(
            f"the target '{target}' has {len(class_names)} different numbers in {len(table.rows)} rows: no classes",
            where=str(table.path),
            fix="task: regression, or another data.target",
        )


def _divided(
    table: CsvFile,
    given: np.ndarray,
    split_column: str | None,
    labels: np.ndarray | None,
    class_names: tuple[str, ...],
    shares: dict[str, float],
    seed: int,
    copies: np.ndarray | None,
) -> np.ndarray:
    """The split of each row, int8 [N]. Raises DataError if the splits lack classes, or cannot be made."""
    if labels is not None and (labels < 0).any():  # refused for that; rows without a class cannot be stratified
        return given
    where = str(table.path)
    if split_column is not None:
        if labels is not None:
            of_split = {split: labels[given == code] for code, split in enumerate(SPLITS) if (given == code).any()}
            check_same_classes(of_split, class_names, "rows", where)
        return given
    split_of = given.copy()
    indices = split_indices(
        len(given), shares, seed, labels=labels, class_names=class_names, unit="rows", where=where, groups=copies
    )
    for split, rows in indices.items():
        split_of[rows] = SPLITS.index(split)
    return split_of


def _typed(
    table: CsvFile, name: str, decimal: Decimal, train: np.ndarray, categorical: bool, findings: list[Finding]
) -> Column:
    """A column of numbers if most cells of the training rows are, of categories otherwise. train: bool [N]"""
    column = read_column(name, table.column(name), decimal=decimal)
    known = train & ~column.missing
    total = int(known.sum())
    if not total:
        what = f"column '{name}' is empty in the training split"
        findings.append(Finding("error", "empty-column", what, (), f"data.drop=[{name}]"))
        return replace(column, numbers=None)
    wrong = column.wrong
    if not categorical and known[wrong].sum() < total / 2:
        if len(wrong):
            what = f"column '{name}' holds finite numbers, but not in {plural(len(wrong), 'row')}"
            places = table.places(wrong.tolist(), [repr(cell) for cell in column.cells])
            fix = f"correct or empty these cells, or data.categorical=[{name}] if they are categories, "
            findings.append(Finding("error", "no-number", what, places, f"{fix}or data.drop=[{name}]"))
        if column.unclear:
            forms = [Form(mark, column.form.affix) for mark in ("comma", "point")]
            both = {cell: [form.read(cell) for form in forms] for cell in dict.fromkeys(column.cells)}
            rows = [row for row, cell in enumerate(column.cells) if np.ptp(both[cell]) > 0]
            one = column.cells[rows[0]]
            what = f"numbers of column '{name}' can mean two things: {one} is {both[one][0]:g} or {both[one][1]:g}"
            places = table.places(rows, [repr(cell) for cell in column.cells])
            findings.append(Finding("error", "unclear-comma", what, places, "data.decimal=comma or data.decimal=point"))
        return column
    values = sorted({column.cells[row] for row in np.flatnonzero(known).tolist()})
    free_text = not categorical and len(values) > max(FEW, total / 2)
    if not categorical and len(values) > max(FEW, total / 10):
        first = {column.cells[row]: row for row in np.flatnonzero(known)[::-1].tolist()}
        examples = sorted(first.values())[:3]
        what = f"column '{name}' has {len(values):,} different texts in {total:,} rows, "
        what += "nearly one a row" if free_text else "each of which becomes a feature"
        fix = f"data.drop=[{name}], or data.categorical=[{name}] to use it all the same; numbers have no unit behind"
        places = table.places(examples, [repr(cell) for cell in column.cells])
        severity: Severity = "error" if free_text else "warning"
        findings.append(Finding(severity, "free-text" if free_text else "many-texts", what, places, fix))
    return replace(column, numbers=None, free_text=free_text)


# --- samples ---------------------------------------------------------------------------------------------------------


def table_source(
    table: FeatureTable,
    *,
    keep: int | None = None,
    method: Method = "mutual_info",
    info: dict[str, Any] | None = None,
    centred: bool = True,
) -> Source:
    """The rows as samples, of which the `keep` most informative features are kept, judged by `method`.

    info: `DataInfo.to_plain()` of a saved model, whose features these are then; its classes are the labels' already.
    centred: whether large offsets are taken from columns, as version 0.1.0 did not.

    Raises DataError, with all rows of one kind of fault, for what no model could learn from.
    """
    refuse(table.findings, table.origin)
    if table.refusal is not None:
        raise table.refusal
    if info is not None:
        return _as_known(table, DataInfo.from_plain(info))
    train = table.split_of == 0
    notes = [f"{finding}; {finding.fix}" if finding.fix else str(finding) for finding in table.findings]
    encodings = [_learned(column, train, notes) for column in table.columns]
    parts = [encoded(column, encoding) for column, encoding in zip(table.columns, encodings, strict=True)]
    targets = table.amounts if table.labels is None else table.labels
    assert targets is not None
    return feature_source(
        np.concatenate(parts, axis=1, dtype=float),
        targets,
        table.splits,
        columns=encodings,
        class_names=table.class_names,
        target=table.target if table.labels is None else "label",
        origin=table.origin,
        numbers=table.lines,
        keep=keep,
        method=method,
        notes=tuple(notes),
        prints=of_samples(of_columns(table.columns)[:, None], targets, table.class_names),
        centred=centred,
    )


def _as_known(table: FeatureTable, info: DataInfo) -> Source:
    """The rows as a saved model knows them. Raises DataError if it misses a column or a number."""
    cells = {column.name: column.cells for column in table.columns}
    inputs = torch.from_numpy(features(info.preparation, cells, lambda wrong: first_few(table.places(wrong))))
    if table.amounts is not None:
        targets = torch.from_numpy((table.amounts - info.preparation.get("target_offset", 0.0)).astype(np.float32))
    else:
        assert table.labels is not None
        targets = torch.from_numpy(table.labels)
    everything = Arrays(inputs, targets, table.origin, table.lines)
    info = replace(info, target=table.target if table.labels is None else "label")
    return Source(info, {split: everything.only(rows) for split, rows in table.splits.items()})


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
        if len(column.numbers) > FEW and (np.diff(column.numbers) == 1).all():
            notes.append(
                f"column '{name}' counts the rows, which says nothing of new ones; without: data.drop=[{name}]"
            )
        written = {key: value for key, value in asdict(column.form).items() if value != getattr(Form(), key)}
        return {"name": name, "kind": "number", "missing": median, **written}
    values = sorted({column.cells[row] for row in np.flatnonzero(train & ~column.missing).tolist()})
    unseen = sorted({column.cells[row] for row in np.flatnonzero(~column.missing).tolist()} - set(values))
    if unseen:
        notes.append(f"column '{name}': not in the training split, so all zeros: {first_few(map(repr, unseen))}")
    if gaps:
        notes.append(f"column '{name}': {gaps} missing values are all zeros")
    return {"name": name, "kind": "category", "values": values}
