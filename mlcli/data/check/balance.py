"""How many samples each class has in each split: classes that are missing, rare, or far more frequent than others."""

from collections.abc import Sequence

import numpy as np

from mlcli.data.check.finding import Finding, Severity
from mlcli.data.splits import class_balance
from mlcli.text import plural

FEW_TO_TRAIN = 10
"""Samples below which a class is hardly learned; the usual few-shot benchmarks stop at 5 or 10."""
FEW_TO_JUDGE = 10
"""Samples below which the score of a class moves in steps of more than 10 %."""
UNEVEN, VERY_UNEVEN = 3.0, 10.0
"""Largest by smallest class: from the first worth knowing, from the second accuracy hides the rare classes."""
SHIFT = 0.1
"""Share of samples that would have to change class for two splits to have the same proportions."""


def balance_findings(
    table: dict[str, np.ndarray], class_names: Sequence[str], unit: str, *, one_label: bool = True
) -> list[Finding]:
    """table: samples of each class, int [C], for each split. unit: "images", "rows" or "objects".

    one_label: each sample has one, so the loss can weigh classes, and training refuses splits that lack some.
    """
    found = []
    if len(class_names) == 1:
        what = f"there is one class only, '{class_names[0]}': nothing to tell apart"
        found.append(Finding("error", "one-class", what, (), "give at least two"))
    for split, counts in table.items():
        absent = tuple(class_names[label] for label in np.flatnonzero(counts == 0).tolist())
        if absent:
            what = f"{plural(len(absent), 'class has', 'classes have')} no {unit} in {split}"
            fix = f"add {unit} of {'it' if len(absent) == 1 else 'them'} to {split}, or remove the class everywhere"
            severity: Severity = "error" if one_label or split == "train" else "warning"
            found.append(Finding(severity, "class-missing", what, absent, fix))
    train = table.get("train", np.zeros(len(class_names), dtype=int))
    found += _few(train, "train", FEW_TO_TRAIN, class_names, unit, "warning", "hardly enough to learn from")
    for split in [split for split in table if split != "train"]:
        consequence = "a score there says little"
        found += _few(table[split], split, FEW_TO_JUDGE, class_names, unit, "note", consequence)
    found += _uneven(train, class_names, one_label)
    found += _shifted(table, unit)
    return found


def _few(
    counts: np.ndarray,
    split: str,
    enough: int,
    class_names: Sequence[str],
    unit: str,
    severity: Severity,
    consequence: str,
) -> list[Finding]:
    few = np.flatnonzero((counts > 0) & (counts < enough)).tolist()
    if not few:
        return []
    places = tuple(f"{class_names[label]} ({counts[label]})" for label in sorted(few, key=lambda label: counts[label]))
    what = f"{plural(len(few), 'class has', 'classes have')} fewer than {enough} {unit} in {split}: {consequence}"
    return [Finding(severity, "class-small", what, places, f"add {unit} of these classes")]


def _uneven(train: np.ndarray, class_names: Sequence[str], one_label: bool) -> list[Finding]:
    present = train[train > 0]
    if len(present) < 2 or present.max() < UNEVEN * present.min():
        return []
    ratio = present.max() / present.min()
    much = bool(ratio >= VERY_UNEVEN)
    shares = class_balance(np.repeat(np.arange(len(train)), train), class_names)
    what = f"the largest class is {ratio:.3g} times the smallest in train: {shares}"
    ways = "loader.sampler=balanced" + (" or loss.class_weights=balanced" if one_label else "")
    fix = f"{ways} makes up for it" + ("; judge by macro_f1 rather than accuracy" if one_label else "")
    return [Finding("warning" if much else "note", "unbalanced", what, (), fix)]


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
    if not places:
        return []
    what = f"classes occur in other proportions than in train; so many {unit} would have to change class"
    return [Finding("note", "classes-shifted", what, tuple(places), "fine if that is how the model will be used")]
