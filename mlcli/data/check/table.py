"""The examination of a table, from the cells of its file to the labels that are doubted."""

from typing import TYPE_CHECKING

import numpy as np

from mlcli.data.check.balance import balance_findings
from mlcli.data.check.columns import column_findings
from mlcli.data.check.drift import shifts
from mlcli.data.check.finding import Examination, Finding
from mlcli.data.check.labels import label_findings
from mlcli.data.check.repeats import is_coarse, repeat_findings
from mlcli.data.check.rows import Rows, rows_of_file, rows_of_source
from mlcli.data.check.suspicion import suspect_rows, suspicion_findings
from mlcli.data.check.targets import target_findings
from mlcli.data.source import Source
from mlcli.text import plural, share

if TYPE_CHECKING:
    from mlcli.data.config import TableFile

MANY_VALUES = 50  # of a column of texts, from which it is left out when labels are doubted


def examine_table_file(config: "TableFile", *, regression: bool) -> Examination:
    """A CSV file. Never raises: what is wrong becomes a finding."""
    return _examine(rows_of_file(config, regression=regression))


def examine_table(source: Source, *, by_design: bool = False) -> Examination:
    """A table in memory. by_design: its rows are meant to repeat (the exclusive or has four)."""
    return _examine(rows_of_source(source), by_design=by_design)


def _examine(rows: Rows, *, by_design: bool = False) -> Examination:
    examination = Examination(findings=list(rows.findings))
    if not len(rows):
        return examination
    examination.facts = _facts(rows)
    found = column_findings(rows) if not by_design else []
    found += repeat_findings(rows, by_design=by_design)
    table = {}
    if rows.labels is not None:
        known = rows.labels >= 0
        size = len(rows.class_names)
        table = {s: np.bincount(rows.labels[known & (rows.split_of == s)], minlength=size) for s in rows.splits()}
        found += label_findings(rows.class_names, np.bincount(rows.labels[known], minlength=size))
        found += [] if by_design else balance_findings(table, rows.class_names, "rows")
        found += [] if by_design or is_coarse(rows) else _suspicious(rows)
    else:
        found += target_findings(rows)
    found += _drift(rows)
    examination.findings += found
    examination.figures = {
        "rows": len(rows),
        "splits": {split: int((rows.split_of == split).sum()) for split in rows.splits()},
        "classes": {
            name: {split: int(counts[label]) for split, counts in table.items()}
            for label, name in enumerate(rows.class_names)
        },
        "columns": {
            column.name: {
                "kind": "category" if column.numbers is None else "number",
                "values": len(np.unique(column.codes)),
                "missing": int(column.missing.sum()),
            }
            for column in rows.columns
        },
    }
    return examination


def _facts(rows: Rows) -> list[tuple[str, str]]:
    counts = " · ".join(f"{int((rows.split_of == split).sum()):,} {split}" for split in rows.splits())
    numbers = sum(column.numbers is not None for column in rows.columns)
    kinds = [plural(numbers, "column of numbers", "columns of numbers")] if numbers else []
    if texts := len(rows.columns) - numbers:
        kinds.append(plural(texts, "column of categories", "columns of categories"))
    answer = f"{plural(len(rows.class_names), 'class', 'classes')}" if rows.labels is not None else _range(rows)
    gaps = sum(int(column.missing.sum()) for column in rows.columns)
    cells = len(rows) * max(1, len(rows.columns))
    missing = f"{gaps:,} cells without a value ({share(gaps, cells)})" if gaps else "no gaps"
    return [("rows", f"{counts} · {answer}"), ("columns", f"{', '.join(kinds)} · {missing}")]


def _range(rows: Rows) -> str:
    assert rows.numbers is not None
    known = rows.numbers[np.isfinite(rows.numbers)]
    return f"{rows.target} from {known.min():.4g} to {known.max():.4g}" if len(known) else rows.target


def _suspicious(rows: Rows) -> list[Finding]:
    assert rows.labels is not None
    known = np.flatnonzero(rows.labels >= 0)
    features = encoded(rows)[known]
    if not features.shape[1]:
        return []
    found = suspect_rows(features, rows.labels[known])
    if found is None:
        return []
    places = rows.places(known[found.suspects])
    labels = [rows.class_names[rows.labels[row]] for row in known[found.suspects].tolist()]
    return suspicion_findings(found, places, labels, rows.class_names, "")


def encoded(rows: Rows) -> np.ndarray:
    """Numbers with the median for gaps, categories one-hot: float64 [N, F]."""
    parts = []
    for column in rows.columns:
        if column.numbers is not None:
            known = column.numbers[np.isfinite(column.numbers)]
            middle = float(np.median(known)) if len(known) else 0.0
            parts.append(np.where(np.isfinite(column.numbers), column.numbers, middle)[:, None])
            continue
        values = np.unique(column.texts[~column.missing])
        if len(values) <= MANY_VALUES:
            parts.append((column.texts[:, None] == values[None]).astype(np.float64))
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(rows), 0))


def _drift(rows: Rows) -> list[Finding]:
    columns = {f"'{column.name}'": column.numbers for column in rows.columns if column.numbers is not None}
    if rows.numbers is not None:
        columns[f"target '{rows.target}'"] = rows.numbers
    places = tuple(shifts(columns, rows.split_of))
    if not places:
        return []
    what = "columns are distributed otherwise than in train"
    return [Finding("note", "drift", what, places, "the score is of data unlike what was learned from; is that meant?")]
