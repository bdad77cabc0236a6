"""The examination of a table, from the cells of its file to the labels that are doubted.

What is odd about columns: gaps, constants, names instead of properties, the answer under another name. About numbers to
predict: constants and outliers.
"""

import numpy as np

from mlcli.data.check.examination import Examination
from mlcli.data.check.labels import MAX_ROWS, label_findings, suspect, suspicion_findings
from mlcli.data.check.splits import balance_findings, drift_findings, is_coarse, repeat_findings
from mlcli.data.finding import Finding, Severity
from mlcli.data.inspection import drawn
from mlcli.data.source import Arrays, Source
from mlcli.data.sources.columns import FEW, Column
from mlcli.data.sources.tables import FeatureTable
from mlcli.data.splits import SPLITS
from mlcli.schema.yaml12 import as_list
from mlcli.text import plural, share

GAPS = 0.3
"""Share of missing values from which a column is known of too few rows."""
ALMOST = 0.999
"""Rank correlation with a numeric target, from which a column is the answer itself."""
FAR, VERY_FAR = 6.0, 12.0
"""Robust z-scores from which a value is worth a look, and probably wrong. A normal value is beyond 6 once in 5e8."""
TO_SIGMA = 1.4826
"""The median of the absolute deviations, times this, is a normal distribution's standard deviation."""
MANY_VALUES = 50  # of a column of texts, from which it is left out when labels are doubted


def rows_of_source(source: Source) -> FeatureTable:
    """A table that comes with scikit-learn, or the exclusive or: numbers only."""
    parts = {split: part for split, part in source.splits.items() if isinstance(part, Arrays)}
    inputs = np.concatenate([part.inputs.numpy().astype(np.float64) for part in parts.values()])
    targets = np.concatenate([part.targets.numpy() for part in parts.values()])
    origin = next(iter(parts.values())).origin
    known = np.zeros(len(inputs), dtype=bool)
    classes = bool(source.info.class_names)
    return FeatureTable(
        origin,
        [
            Column(name, [f"{value:g}" for value in inputs[:, number].tolist()], known, inputs[:, number])
            for number, name in enumerate(source.info.preparation["features"])
        ],
        np.repeat(np.array([SPLITS.index(split) for split in parts], dtype=np.int8), [len(p) for p in parts.values()]),
        np.concatenate([part.numbers for part in parts.values() if part.numbers is not None]),
        source.info.target,
        source.info.class_names,
        labels=targets.astype(np.int64) if classes else None,
        amounts=None if classes else targets.astype(np.float64),
        numbering=f"{origin}:",
    )


def examine_rows(table: FeatureTable, *, by_design: bool = False) -> Examination:
    """Never raises: what is wrong becomes a finding.

    by_design: rows are meant to repeat, as the four of the exclusive or.
    """
    examination = Examination(findings=list(table.findings))
    if not len(table):
        return examination
    examination.facts = _facts(table)
    found = column_findings(table) if not by_design else []
    found += repeat_findings(table, by_design=by_design)
    counts: dict[str, np.ndarray] = {}
    if table.labels is not None:
        size = len(table.class_names)
        for split, rows in table.splits.items():
            labels = table.labels[rows]
            counts[split] = np.bincount(labels[labels >= 0], minlength=size)
        found += label_findings(table.class_names, np.sum(list(counts.values()), axis=0))
        found += [] if by_design else balance_findings(counts, table.class_names, "rows")
        found += [] if by_design or is_coarse(table) else _suspicious(table, table.labels)
    else:
        assert table.amounts is not None
        found += target_findings(table, table.amounts)
    numbers = {f"'{column.name}'": column.numbers for column in table.columns if column.numbers is not None}
    numbers |= {} if table.amounts is None else {f"target '{table.target}'": table.amounts}
    found += drift_findings("columns are distributed differently from train", numbers, table.splits)
    examination.findings += found
    examination.figures = {
        "rows": len(table),
        "splits": {split: len(rows) for split, rows in table.splits.items()},
        "classes": {
            name: {split: int(of_class[label]) for split, of_class in counts.items()}
            for label, name in enumerate(table.class_names)
        },
        "columns": {
            column.name: {
                "kind": "category" if column.numbers is None else "number",
                "values": len(np.unique(column.codes)),
                "missing": int(column.missing.sum()),
            }
            for column in table.columns
        },
    }
    return examination


def _facts(table: FeatureTable) -> list[tuple[str, str]]:
    counts = " · ".join(f"{len(rows):,} {split}" for split, rows in table.splits.items())
    numbers = sum(column.numbers is not None for column in table.columns)
    kinds = [plural(numbers, "column of numbers", "columns of numbers")] if numbers else []
    if texts := len(table.columns) - numbers:
        kinds.append(plural(texts, "column of categories", "columns of categories"))
    answer = plural(len(table.class_names), "class", "classes")
    if table.amounts is not None:
        known = table.amounts[np.isfinite(table.amounts)]
        answer = f"{table.target} from {known.min():.4g} to {known.max():.4g}" if len(known) else table.target
    gaps = sum(int(column.missing.sum()) for column in table.columns)
    cells = len(table) * max(1, len(table.columns))
    missing = f"{gaps:,} cells without a value ({share(gaps, cells)})" if gaps else "no gaps"
    return [("rows", f"{counts} · {answer}"), ("columns", f"{', '.join(kinds)} · {missing}")]


def _suspicious(table: FeatureTable, labels: np.ndarray) -> list[Finding]:
    """Labels that are doubted, by numbers with the median for gaps and categories one-hot."""
    parts = []
    for column in table.columns:
        if column.numbers is not None:
            finite = np.isfinite(column.numbers)
            middle = float(np.median(column.numbers[finite])) if finite.any() else 0.0
            parts.append(np.where(finite, column.numbers, middle)[:, None])
            continue
        values = np.unique(column.texts[~column.missing])
        if len(values) <= MANY_VALUES:
            parts.append((column.texts[:, None] == values[None]).astype(np.float64))
    known = drawn(np.flatnonzero(labels >= 0), MAX_ROWS, 0)
    found = suspect(np.concatenate(parts, axis=1)[known], labels[known], known) if parts else None
    if found is None:
        return []
    rows = found.suspects.tolist()
    names = [table.class_names[labels[row]] for row in rows]
    return suspicion_findings(found, table.places(rows), names, table.class_names, "")


# --- columns --------------------------------------------------------------------------------------------------------


def column_findings(table: FeatureTable) -> list[Finding]:
    """Return findings about columns with valid cells; columns of free text are findings already."""
    found: list[Finding] = []
    for column in table.columns:
        if column.numbers is None and not column.free_text:
            spellings: dict[str, list[str]] = {}
            for value in np.unique(column.texts[~column.missing]).tolist():
                spellings.setdefault(value.casefold().replace(" ", ""), []).append(value)
            alike = tuple(" / ".join(map(repr, group)) for group in spellings.values() if len(group) > 1)
            if alike:
                what = f"values of column '{column.name}' that differ only by case or blanks count as different"
                found.append(Finding("warning", "values-alike", what, alike, "spell each value one way"))
    constant = [column.name for column in table.columns if len(np.unique(column.codes)) == 1]
    if constant:
        what = f"{plural(len(constant), 'column is', 'columns are')} the same in every row: nothing to learn from"
        found.append(Finding("warning", "constant-column", what, tuple(constant), _drop(constant)))
    columns = [column for column in table.columns if column.name not in constant and not column.free_text]
    names = [column.name for column in columns if column.names_rows]
    if names:
        what = f"{plural(len(names), 'column names', 'columns name')} each row rather than describing it"
        found.append(Finding("warning", "id-column", what, tuple(names), _drop(names)))
    rest = [column for column in table.columns if column.name not in {*constant, *names}]
    return found + _gaps(table, constant) + _twins(rest) + _leaks(table, rest)


def _gaps(table: FeatureTable, constant: list[str]) -> list[Finding]:
    gaps = {column.name: int(column.missing.sum()) for column in table.columns if column.name not in constant}
    many = [name for name, count in gaps.items() if count >= GAPS * len(table)]
    few = [name for name, count in gaps.items() if 0 < count < GAPS * len(table)]
    found = []
    if many:
        places = tuple(f"{name} ({share(gaps[name], len(table))})" for name in many)
        what = f"{plural(len(many), 'column has', 'columns have')} no value in {100 * GAPS:.0f} % of the rows or more"
        found.append(Finding("warning", "gaps", what, places, "why are they missing? " + _drop(many)))
    if few:
        places = tuple(f"{name} ({share(gaps[name], len(table))})" for name in few)
        what = f"{plural(len(few), 'column has', 'columns have')} missing values; numbers become the training median"
        found.append(Finding("note", "some-gaps", what, places))
    return found


def _twins(columns: list[Column]) -> list[Finding]:
    """Columns with the same information in every row: categories under other names, numbers in other units."""
    groups: dict[tuple[str, bytes], list[str]] = {}
    for column in columns:
        values = len(np.unique(column.codes))
        if column.numbers is not None and np.nanstd(column.numbers) > 0:
            standard = (column.numbers - np.nanmean(column.numbers)) / np.nanstd(column.numbers)
            standard *= np.sign(standard[np.nanargmax(np.abs(standard))])
            key = ("number", (np.round(standard, 4) + 0.0).tobytes())
        elif column.numbers is None and values <= len(column.codes) / 2:
            _, first, codes = np.unique(column.codes, return_index=True, return_inverse=True)
            key = ("category", np.argsort(np.argsort(first))[codes.ravel()].tobytes())  # numbered as they are met
        else:
            continue
        groups.setdefault(key, []).append(column.name)
    twins = [names for names in groups.values() if len(names) > 1]
    if not twins:
        return []
    copies = sum(len(names) - 1 for names in twins)
    what = f"{plural(copies, 'column repeats', 'columns repeat')} another under a new name or in other units"
    fix = _drop([name for names in twins for name in names[1:]])
    return [Finding("note", "twin-columns", what, tuple(" = ".join(names) for names in twins), fix)]


def _leaks(table: FeatureTable, columns: list[Column]) -> list[Finding]:
    """Columns from which the answer can be read off."""
    kinds = {column.name: _leak(table, column) for column in columns}
    equal = [name for name, kind in kinds.items() if kind == "equal"]
    exact = [name for name, kind in kinds.items() if kind == "exact"]
    found = []
    if equal:
        what = f"{plural(len(equal), 'column is', 'columns are')} the target '{table.target}' under another name"
        found.append(Finding("error", "target-leak", what, tuple(equal), _drop(equal)))
    if exact:
        what = plural(len(exact), "column alone determines", "columns each alone determine")
        what += f" the target '{table.target}' exactly"
        fix = f"is it known before the answer is? if not, {_drop(exact)}"
        found.append(Finding("warning", "target-told", what, tuple(exact), fix))
    return found


def _leak(table: FeatureTable, column: Column) -> str:
    """equal: one value for each class, or the amount up to scale and shift; exact: each value has one class, or one
    threshold lies between any two classes, or the amount follows a rising or falling curve; empty otherwise."""
    if table.labels is None:
        return _determines_amount(table, column)
    known = (table.labels >= 0) & ~column.missing
    codes, labels = column.codes[known], table.labels[known]
    if len(labels) < FEW or len(np.unique(labels)) < 2:
        return ""
    pairs = np.unique(np.stack([codes, labels], axis=1), axis=0)
    values, classes = len(np.unique(codes)), len(np.unique(labels))
    if len(pairs) != values:
        return ""
    if values == classes:
        return "equal"
    if values <= len(labels) / 2:
        return "exact"
    if column.numbers is None:
        return ""
    order = np.argsort(column.numbers[known], kind="stable")
    return "exact" if int((np.diff(labels[order]) != 0).sum()) == classes - 1 else ""


def _determines_amount(table: FeatureTable, column: Column) -> str:
    from scipy.stats import rankdata

    assert table.amounts is not None
    if column.numbers is None:
        return ""
    known = np.isfinite(table.amounts) & np.isfinite(column.numbers)
    x, y = column.numbers[known], table.amounts[known]
    if len(y) < FEW or x.std() == 0 or y.std() == 0:
        return ""
    if abs(np.corrcoef(x, y)[0, 1]) > 1 - 1e-6:
        return "equal"
    return "exact" if abs(np.corrcoef(rankdata(x), rankdata(y))[0, 1]) > ALMOST else ""


def _drop(names: list[str]) -> str:
    return as_list("data.drop", names)


# --- numbers to predict ---------------------------------------------------------------------------------------------


def target_findings(table: FeatureTable, amounts: np.ndarray) -> list[Finding]:
    """A constant, and outliers. amounts: float64 [N], NaN where none is given."""
    known = np.flatnonzero(np.isfinite(amounts))
    values = amounts[known]
    if not len(values):
        return []
    if values.min() == values.max():
        what = f"the target '{table.target}' is {values[0]:g} in every row: nothing to learn"
        return [Finding("error", "constant-target", what, (), "predict another column: data.target")]
    scores = robust_z(values)
    found = []
    ranges: list[tuple[Severity, float, float]] = [("warning", VERY_FAR, np.inf), ("note", FAR, VERY_FAR)]
    for severity, low, high in ranges:
        chosen = np.flatnonzero((scores >= low) & (scores < high))
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")].tolist()
        if chosen:
            what = (
                f"{plural(len(chosen), 'value')} of the target '{table.target}' at {low:g} robust standard deviations"
            )
            places = tuple(f"{table.name(known[row])}: {values[row]:g}" for row in chosen)
            fix = "typos, or rare but real? outliers dominate mse; loss.name=smooth_l1 is robust to them"
            found.append(Finding(severity, "target-outliers", what, places, fix))
    return found


def robust_z(values: np.ndarray) -> np.ndarray:
    """Distance to the median in robust standard deviations; of positive values, the smaller of that and the same of
    their logarithms, since prices and durations are skewed without being wrong."""
    scores = []
    for scale in (values, np.log(values)) if values.min() > 0 else (values,):
        distance = np.abs(scale - np.median(scale))
        spread = TO_SIGMA * np.median(distance)
        if spread == 0:  # more than half are equal: the mean deviation of the others
            spread = 1.2533 * distance.mean()
        scores.append(distance / spread)
    return np.minimum.reduce(scores)
