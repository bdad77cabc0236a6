"""Rows that occur more than once: in two splits (then the score is too good), with different answers, or just twice."""

import numpy as np

from mlcli.data.check.finding import Finding, Severity
from mlcli.data.check.rows import Rows
from mlcli.text import plural, share

COARSE = 0.5
"""Share of different rows below which they repeat by nature: a table of few categories has no others."""
CHANCE = 0.01
"""Share of the rows held out up to which equal measurements may be chance; iris has one pair in 150."""


def is_coarse(rows: Rows) -> bool:
    """Whether rows repeat because there are few different ones."""
    return bool(rows.columns) and len(_groups(rows)[1]) < COARSE * len(rows)


def repeat_findings(rows: Rows, *, by_design: bool = False) -> list[Finding]:
    if not rows.columns:
        return []
    groups, sizes = _groups(rows)
    if not (sizes > 1).any():
        return []
    coarse = is_coarse(rows)
    answers = rows.answers
    known = answers >= 0 if rows.numbers is None else np.isfinite(rows.numbers)
    within, across, differing = [], [], []
    for group in _members(groups, sizes):
        splits, values = rows.split_of[group], answers[group]
        told = group[known[group]]
        if len(np.unique(answers[told])) > 1:
            differing.append(told)
        first: dict[tuple[str, int], int] = {}
        for row, split, value in zip(group.tolist(), splits.tolist(), values.tolist(), strict=True):
            if (split, value) in first:
                within.append((first[split, value], row))
            first.setdefault((split, value), row)
        trained = group[splits == "train"]
        if len(trained):
            across += [(int(trained[0]), int(row)) for row in group[splits != "train"]]
    if by_design:
        return [Finding("note", "coarse", f"all splits hold the same {len(sizes):,} different rows, as they should")]
    found = _across(rows, across, coarse)
    if differing:
        found.append(_differing(rows, differing, coarse))
    if coarse:
        what = f"rows repeat by nature: {len(rows):,} rows, {len(sizes):,} different ones"
        found.append(Finding("note", "coarse", what, (), "a table of them may already be the best model"))
    elif within:
        what = f"{plural(len(within), 'row repeats', 'rows repeat')} another of the same split, answer included"
        severity: Severity = "warning" if len(within) > CHANCE * len(rows) else "note"
        found.append(Finding(severity, "duplicates", what, _equal(rows, within),
                             "remove them, unless they were measured twice"))  # fmt: skip
    return found


def _groups(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Which of the different rows each row is, int64 [N], and how often each occurs; the target aside."""
    features = np.stack([column.codes for column in rows.columns], axis=1)
    _, groups, sizes = np.unique(features, axis=0, return_inverse=True, return_counts=True)
    return groups.ravel(), sizes


def _members(groups: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Rows of each group of two and more."""
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(sizes)
    return [order[ends[group] - sizes[group] : ends[group]] for group in np.flatnonzero(sizes > 1)]


def _across(rows: Rows, pairs: list[tuple[int, int]], coarse: bool) -> list[Finding]:
    if not pairs:
        return []
    severity: Severity = "note"
    if coarse:
        fix = "fine if rows like these are what the model will see"
    elif len(pairs) > CHANCE * int((rows.split_of != "train").sum()) and len(pairs) > 1:
        severity, fix = "error", "keep each row in one split only: what was trained on must not be tested on"
    else:
        fix = "by chance, or measured once and entered twice?"
    parts = []
    for split in ("val", "test"):
        count = sum(rows.split_of[second] == split for _, second in pairs)
        if count:
            which = plural(count, f"row of {split} is", f"rows of {split} are")
            parts.append(f"{which} also in train ({share(count, int((rows.split_of == split).sum()))})")
    return [Finding(severity, "duplicates-across-splits", ", ".join(parts), _equal(rows, pairs), fix)]


def _differing(rows: Rows, groups: list[np.ndarray], coarse: bool) -> Finding:
    """How good the best answer can be where equal rows have different ones."""
    count = sum(len(group) for group in groups)
    what = f"{plural(count, 'row has', 'rows have')} the same features as another, but another '{rows.target}'"
    if rows.labels is not None:
        lost = sum(len(group) - int(np.bincount(rows.answers[group]).max()) for group in groups)
        what += f"; no model can be right about more than {100 - 100 * lost / len(rows):.1f} % of all rows"
    places = tuple(" = ".join(rows.names[row] for row in group.tolist()) for group in groups)
    fix = "correct the wrong ones, or add the column that tells them apart"
    return Finding("note" if coarse or rows.labels is None else "warning", "conflicting-rows", what, places, fix)


def _equal(rows: Rows, pairs: list[tuple[int, int]]) -> tuple[str, ...]:
    several = len(rows.splits()) > 1
    names = [f"{name} ({split})" if several else name for name, split in zip(rows.names, rows.split_of, strict=True)]
    return tuple(f"{names[first]} = {names[second]}" for first, second in pairs)
