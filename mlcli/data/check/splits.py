"""Comparison of splits: classes that are missing, rare or far more frequent than others, splits that look unlike, and
rows of a table that occur more than once, within a split or in two.

Two samples of a number are compared by the Kolmogorov-Smirnov statistic: the largest distance between their cumulative
distributions, 0 to 1. With many samples any difference is significant, so it has to be large as well.
"""

from collections.abc import Sequence

import numpy as np

from mlcli.data.check.images import sizes_read
from mlcli.data.finding import Finding, Severity
from mlcli.data.scan import Collection, Scan
from mlcli.data.sources.tables import FeatureTable
from mlcli.data.splits import SPLITS, class_balance
from mlcli.text import plural, share

FEW_TO_TRAIN = 10
"""Samples below which a class is hardly learned; the usual few-shot benchmarks stop at 5 or 10."""
FEW_TO_JUDGE = 10
"""Samples below which the score of a class moves in steps of more than 10 %."""
UNEVEN, VERY_UNEVEN = 3.0, 10.0
"""Largest by smallest class: from the first worth knowing, from the second accuracy hides the rare classes."""
SHIFT = 0.1
"""Share of samples that would have to change class for two splits to have the same proportions."""
LARGE = 0.2
SIGNIFICANT = 1e-4
"""Probability of such a distance by chance, after Bonferroni for all comparisons made."""
COARSE = 0.5
"""Share of different rows below which they repeat by nature: a table of few categories has no others."""
CHANCE, SERIOUS = 0.01, 0.05
"""Share of the rows held out up to which equal measurements may be chance (iris has one pair in 150), and from which
the score cannot be trusted."""
FEWEST = 20  # samples of a split below which nothing is compared


# --- classes ---------------------------------------------------------------------------------------------------------


def balance_findings(
    table: dict[str, np.ndarray], class_names: Sequence[str], unit: str, *, one_label: bool = True
) -> list[Finding]:
    """table: samples of each class, int [C], for each split. unit: "images", "rows" or "objects".

    one_label: each sample has one, so the loss can weigh classes, and training refuses splits that lack some.
    """
    found = []
    if len(class_names) == 1:
        what = f"there is one class only, '{class_names[0]}': nothing to distinguish"
        found.append(Finding("error", "one-class", what, (), "give at least two"))
    for split, counts in table.items():
        absent = tuple(class_names[label] for label in np.flatnonzero(counts == 0).tolist())
        if absent:
            what = f"{plural(len(absent), 'class has', 'classes have')} no {unit} in {split}"
            fix = f"add {unit} of {'it' if len(absent) == 1 else 'them'} to {split}, or remove the class everywhere"
            severity: Severity = "error" if one_label or split == "train" else "warning"
            found.append(Finding(severity, "class-missing", what, absent, fix))
    train = table.get("train", np.zeros(len(class_names), dtype=int))
    for split, counts in table.items():
        enough = FEW_TO_TRAIN if split == "train" else FEW_TO_JUDGE
        few = np.flatnonzero((counts > 0) & (counts < enough))
        few = few[np.argsort(counts[few], kind="stable")].tolist()
        if few:
            what = f"{plural(len(few), 'class has', 'classes have')} fewer than {enough} {unit} in {split}: "
            what += "hardly enough to learn from" if split == "train" else "a score there is uncertain"
            places = tuple(f"{class_names[label]} ({counts[label]})" for label in few)
            severity = "warning" if split == "train" else "note"
            found.append(Finding(severity, "class-small", what, places, f"add {unit} of these classes"))
    return found + _uneven(train, class_names, one_label) + _shifted(table, unit)


def _uneven(train: np.ndarray, class_names: Sequence[str], one_label: bool) -> list[Finding]:
    present = train[train > 0]
    if len(present) < 2 or present.max() < UNEVEN * present.min():
        return []
    ratio = present.max() / present.min()
    shares = class_balance(np.repeat(np.arange(len(train)), train), class_names)
    what = f"the largest class is {ratio:.3g} times the smallest in train: {shares}"
    fix = "mAP counts each class alike; loader.sampler=repeat_factor shows pictures of rare classes more often"
    if one_label:
        ways = "loader.sampler=balanced or loss.class_weights=balanced"
        fix = f"{ways} makes up for it; judge by macro_f1 rather than accuracy"
    return [Finding("warning" if ratio >= VERY_UNEVEN else "note", "unbalanced", what, (), fix)]


def _shifted(table: dict[str, np.ndarray], unit: str) -> list[Finding]:
    if "train" not in table or not table["train"].sum():
        return []
    expected = table["train"] / table["train"].sum()
    places = []
    for split, counts in table.items():
        total = counts.sum()
        if split == "train" or not total:
            continue
        moved = 0.5 * np.abs(counts / total - expected).sum()
        by_chance = 0.4 * np.sqrt(expected / total).sum()  # mean of |normal| is 0.8 of its standard deviation
        if moved > SHIFT + by_chance:
            places.append(f"{split} ({100 * moved:.0f} %)")
    what = f"class proportions differ from train (share of {unit} that would have to change class)"
    fix = "fine if that is how the model will be used"
    return [Finding("note", "classes-shifted", what, tuple(places), fix)] if places else []


# --- numbers ---------------------------------------------------------------------------------------------------------


def image_drift(collection: Collection, scan: Scan) -> list[Finding]:
    """The other splits compared with train, by four properties of their images."""
    pixels = scan.pixels.reshape(len(scan.pixels), -1)
    level, spread, side, aspect = np.full((4, len(pixels)), np.nan)
    for start in range(0, len(pixels), 4096):
        chunk = pixels[start : start + 4096].astype(np.float32)
        level[start : start + 4096], spread[start : start + 4096] = chunk.mean(axis=1), chunk.std(axis=1)
    level[~scan.ok] = spread[~scan.ok] = np.nan
    at, sizes = sizes_read(scan)
    side[at], aspect[at] = sizes.min(axis=1), sizes[:, 0] / sizes[:, 1]
    properties = {"brightness": level, "contrast": spread, "shorter side": side, "width/height": aspect}
    split_of = collection.split_of[scan.read]
    rows = {split: np.flatnonzero(split_of == code) for code, split in enumerate(collection.splits)}
    return drift_findings("the splits look different from train", properties, rows)


def drift_findings(what: str, columns: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> list[Finding]:
    """`test: brightness 121 in the median, 87 in train` for each column and split that differ, if there are any.

    columns: float [N], NaN for gaps. rows: of each split.
    """
    from scipy.stats import ks_2samp

    others = [split for split in rows if split != "train"]
    limit, places = SIGNIFICANT / max(1, len(columns) * len(others)), []
    for name, values in columns.items():
        known = {split: values[chosen][~np.isnan(values[chosen])] for split, chosen in rows.items()}
        for split in others:
            train, there = known.get("train", values[:0]), known[split]
            if min(len(train), len(there)) >= FEWEST:
                result = ks_2samp(train, there, method="asymp")
                if result.statistic > LARGE and result.pvalue < limit:
                    here, seen = np.median(there), np.median(train)
                    places.append(f"{split}: {name} {here:.3g} in the median, {seen:.3g} in train")
    fix = "the score is measured on data unlike the training data; is that intended?"
    return [Finding("note", "drift", what, tuple(places), fix)] if places else []


# --- rows that repeat ------------------------------------------------------------------------------------------------


def is_coarse(table: FeatureTable) -> bool:
    """Whether rows repeat because there are few different ones."""
    return bool(table.columns) and len(_groups(table)[1]) < COARSE * len(table)


def repeat_findings(table: FeatureTable, *, by_design: bool = False) -> list[Finding]:
    """Equal rows across splits and with different answers first, which harm most.

    by_design: they are meant to repeat.
    """
    if not table.columns:
        return []
    groups, sizes = _groups(table)
    if not (sizes > 1).any():
        return []
    if by_design:
        return [Finding("note", "coarse", f"all splits hold the same {len(sizes):,} different rows, as they should")]
    coarse = is_coarse(table)
    answers, known = table.labels, None if table.labels is None else table.labels >= 0
    if answers is None or known is None:
        assert table.amounts is not None
        answers, known = np.unique(table.amounts, return_inverse=True)[1].ravel(), np.isfinite(table.amounts)
    within, across, differing = [], [], []
    order, ends = np.argsort(groups, kind="stable"), np.cumsum(sizes)
    for number in np.flatnonzero(sizes > 1):
        group = order[ends[number] - sizes[number] : ends[number]]
        splits = table.split_of[group]
        if len(np.unique(answers[group[known[group]]])) > 1:
            differing.append(group[known[group]])
        first: dict[tuple[int, int], int] = {}
        for row, split, answer in zip(group.tolist(), splits.tolist(), answers[group].tolist(), strict=True):
            if (split, answer) in first:
                within.append((first[split, answer], row))
            first.setdefault((split, answer), row)
        trained = group[splits == 0]
        if len(trained):
            across += [(int(trained[0]), int(row)) for row in group[splits != 0]]
    found = _rows_across(table, across, coarse)
    if differing:
        found.append(_conflicting(table, differing, coarse))
    if coarse:
        what = f"few rows are different: {len(table):,} rows, {len(sizes):,} different ones"
        found.append(Finding("note", "coarse", what, (), "a lookup table may already be the best model"))
    elif within:
        what = f"{plural(len(within), 'row repeats', 'rows repeat')} another of the same split, answer included"
        severity: Severity = "warning" if len(within) > CHANCE * len(table) else "note"
        fix = "data.duplicates=drop keeps one of them, unless they were measured twice"
        found.append(Finding(severity, "duplicates", what, _equal(table, within), fix))
    return found


def _groups(table: FeatureTable) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's index among the different rows, int64 [N], and the count of each, without the target."""
    features = np.stack([column.codes for column in table.columns], axis=1)
    _, groups, sizes = np.unique(features, axis=0, return_inverse=True, return_counts=True)
    return groups.ravel(), sizes


def _rows_across(table: FeatureTable, pairs: list[tuple[int, int]], coarse: bool) -> list[Finding]:
    if not pairs:
        return []
    severity: Severity = "note"
    if coarse:
        fix = "fine if rows like these are what the model will see"
    elif len(pairs) > CHANCE * int((table.split_of != 0).sum()) and len(pairs) > 1:
        severity = "error" if len(pairs) > SERIOUS * int((table.split_of != 0).sum()) else "warning"
        fix = "data.duplicates=one_split keeps equal rows in one split, data.duplicates=drop keeps one of them"
    else:
        fix = "by chance, or measured once and entered twice?"
    parts = []
    for split, rows in table.splits.items():
        count = sum(SPLITS[table.split_of[second]] == split for _, second in pairs)
        if count:
            which = plural(count, f"row of {split} is", f"rows of {split} are")
            parts.append(f"{which} also in train ({share(count, len(rows))})")
    return [Finding(severity, "duplicates-across-splits", ", ".join(parts), _equal(table, pairs), fix)]


def _conflicting(table: FeatureTable, groups: list[np.ndarray], coarse: bool) -> Finding:
    """Report equal rows with different answers, and the best score that they allow."""
    count = sum(len(group) for group in groups)
    what = f"{plural(count, 'row has', 'rows have')} the same features as another, but another '{table.target}'"
    if table.labels is not None:
        lost = sum(len(group) - int(np.bincount(table.labels[group]).max()) for group in groups)
        what += f"; no model can be right about more than {100 - 100 * lost / len(table):.1f} % of all rows"
    places = tuple(" = ".join(table.places(group)) for group in groups)
    fix = "correct the wrong ones, or add a column that distinguishes them"
    return Finding("note" if coarse or table.labels is None else "warning", "conflicting-rows", what, places, fix)


def _equal(table: FeatureTable, pairs: list[tuple[int, int]]) -> tuple[str, ...]:
    several = len(table.splits) > 1

    def named(row: int) -> str:
        return f"{table.name(row)} ({SPLITS[table.split_of[row]]})" if several else table.name(row)

    return tuple(f"{named(first)} = {named(second)}" for first, second in pairs)
