"""Images and rows that occur more than once: within a split, in two splits (then the score is too good), with different
labels."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from mlcli.data.check.images import blank_images
from mlcli.data.check.likeness import equal_groups, near_pairs
from mlcli.data.check.scan import SIDE, Collection, Scan
from mlcli.data.finding import Finding, Severity
from mlcli.data.sources.tables import FeatureTable
from mlcli.data.splits import SPLITS
from mlcli.errors import DataError
from mlcli.text import plural, share

EQUAL, SAME, NEAR, MIRRORED = "equal", "saved anew", "nearly equal", "mirrored"
WORRYING = 0.005
"""Share of a split that nearly equals something in another, from which its score is too good by a visible amount."""
MOST_KINDS = 8
"""Splits and labels that one image is paired across; a picture that stands for "no image" may be in all classes."""
COARSE = 0.5
"""Share of different rows below which they repeat by nature: a table of few categories has no others."""
CHANCE = 0.01
"""Share of the rows held out up to which equal measurements may be chance; iris has one pair in 150."""


@dataclass(frozen=True)
class Pair:
    """Two images (positions in the data set) that show the same.

    likeness: EQUAL in every decoded pixel; SAME but for scaling, compression or brightness; NEAR; MIRRORED.
    score: correlation of their edges; 1 if equal.
    """

    first: int
    second: int
    likeness: str
    score: float


def find_pairs(collection: Collection, scan: Scan) -> list[Pair]:
    """All of them, equal ones first."""
    rows = np.flatnonzero(scan.ok & ~blank_images(scan))
    pixels = scan.pixels[rows]
    sizes = np.array([(look.width, look.height) for look in (scan.looks[row] for row in rows.tolist()) if look])
    if len(rows) < 2:
        return []
    pairs, repeated = [], np.zeros(len(rows), dtype=bool)
    for group in equal_groups(pixels, sizes):
        groups = [group] if (sizes[group[0]] <= SIDE).all() else _by_content(collection, scan.read[rows], group)
        for members in groups:
            pairs += _paired(collection, scan.read[rows[members]])
            repeated[members[1:]] = True
    positions = scan.read[rows[~repeated]]
    if len(positions) < 2:
        return pairs
    near = near_pairs(pixels[~repeated])
    kinds = np.where(near.mirrored, MIRRORED, np.where(near.same, SAME, NEAR)).tolist()
    return pairs + [
        Pair(int(positions[i]), int(positions[j]), kind, score)
        for (i, j), kind, score in zip(near.pairs.tolist(), kinds, near.score.tolist(), strict=True)
    ]


def _by_content(collection: Collection, positions: np.ndarray, group: np.ndarray) -> list[np.ndarray]:
    """The group divided by whole pixels: 32x32 of a large image are a hint only."""
    by_content: dict[bytes, list[int]] = {}
    for member in group.tolist():
        with suppress(DataError):  # gone since it was read
            pixels = collection.pictures.picture(int(positions[member])).tobytes()
            by_content.setdefault(hashlib.blake2b(pixels).digest(), []).append(member)
    return [np.array(members) for members in by_content.values() if len(members) > 1]


def _paired(collection: Collection, positions: np.ndarray) -> list[Pair]:
    """Each image with the first of its own split and label, and with the first of each other, from train on."""
    order = np.lexsort((positions, collection.split_of[positions]))
    firsts: dict[tuple[int, int], int] = {}
    pairs = []
    for position in positions[order].tolist():
        kind = (int(collection.split_of[position]), int(collection.labels[position]))
        others = [first for other, first in firsts.items() if other != kind][:MOST_KINDS]
        own = [firsts[kind]] if kind in firsts else []
        pairs += [Pair(partner, position, EQUAL, 1.0) for partner in own + others]
        firsts.setdefault(kind, position)
    return pairs


def duplicate_findings(collection: Collection, pairs: list[Pair]) -> list[Finding]:
    """Across splits and under two labels first, which harm most."""
    kinds: dict[tuple[bool, str], list[Pair]] = {}
    for pair in pairs:
        sure = pair.likeness in (EQUAL, SAME)
        across = collection.split_of[pair.first] != collection.split_of[pair.second]
        conflict = collection.labels[pair.first] != collection.labels[pair.second]
        for kind in (["across"] if across else []) + (["conflict"] if conflict else []) or ["within"]:
            kinds.setdefault((sure, kind), []).append(pair)
    found = []
    if across := kinds.get((True, "across")):
        fix = "keep each picture in one split only: what was trained on must not be tested on"
        what, _ = _across(collection, across, "also in")
        found.append(Finding("error", "duplicates-across-splits", what, _places(collection, across), fix))
    if conflicting := kinds.get((True, "conflict")):
        what = f"{plural(len(conflicting), 'pair')} of the same picture under different labels"
        places = _places(collection, conflicting, labels=True)
        fix = "decide on one label for each"
        found.append(Finding("error", "duplicates-with-different-labels", what, places, fix))
    if across := kinds.get((False, "across")):
        fix = "look at duplicates.png; what shows the same belongs into one split"
        what, largest = _across(collection, across, "nearly the same as one in")
        severity: Severity = "warning" if largest >= WORRYING else "note"
        found.append(Finding(severity, "near-duplicates-across-splits", what, _places(collection, across), fix))
    if conflicting := kinds.get((False, "conflict")):
        what = f"{plural(len(conflicting), 'pair')} of nearly the same picture under different labels"
        places = _places(collection, conflicting, labels=True)
        found.append(
            Finding("warning", "near-duplicates-with-different-labels", what, places, "look at duplicates.png")
        )
    if within := kinds.get((True, "within")):
        extra = len({pair.second for pair in within})
        what = f"{plural(extra, 'image repeats another', 'images repeat another')} of the same split"
        places, fix = _places(collection, within), "remove the copies: they weigh double"
        found.append(Finding("warning", "duplicates", what, places, fix))
    if within := kinds.get((False, "within")):
        one, many = "pair of images in one split is nearly equal", "pairs of images in one split are nearly equal"
        found.append(Finding("note", "near-duplicates", plural(len(within), one, many), _places(collection, within)))
    return found


def _across(collection: Collection, pairs: list[Pair], how: str) -> tuple[str, float]:
    """Counted by the images held out, the later split of each pair: 12 images of test are also in train (1.2 %).

    Returns that and the largest share.
    """
    held_out: dict[tuple[str, str], set[int]] = {}
    for pair in pairs:
        early, late = sorted((pair.first, pair.second), key=lambda index: collection.split_of[index])
        held_out.setdefault((collection.split(late), collection.split(early)), set()).add(late)
    counts = collection.counts()
    parts = []
    for (late_split, early_split), images in sorted(held_out.items(), key=lambda item: -len(item[1])):
        which = plural(len(images), f"image of {late_split} is", f"images of {late_split} are")
        parts.append(f"{which} {how} {early_split} ({share(len(images), counts[late_split])})")
    return ", ".join(parts), max(len(images) / counts[split] for (split, _), images in held_out.items())


def _places(collection: Collection, pairs: list[Pair], *, labels: bool = False) -> tuple[str, ...]:
    """`train/a.png = test/b.png`, with labels `train/a.png 'cat' = train/b.png 'dog'`."""

    def named(index: int) -> str:
        name, split = collection.name(index), collection.split(index)
        if not name.startswith(f"{split}/") and len(collection.splits) > 1:
            name = f"{name} ({split})"
        return f"{name} '{collection.label(index) or 'no label'}'" if labels else name

    sign = {EQUAL: "=", SAME: "=", NEAR: "~", MIRRORED: "~ mirrored"}
    return tuple(f"{named(pair.first)} {sign[pair.likeness]} {named(pair.second)}" for pair in pairs)


# --- rows -----------------------------------------------------------------------------------------------------------


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
    answers, known = _answers(table)
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
        what = f"rows repeat by nature: {len(table):,} rows, {len(sizes):,} different ones"
        found.append(Finding("note", "coarse", what, (), "a table of them may already be the best model"))
    elif within:
        what = f"{plural(len(within), 'row repeats', 'rows repeat')} another of the same split, answer included"
        severity: Severity = "warning" if len(within) > CHANCE * len(table) else "note"
        fix = "remove them, unless they were measured twice"
        found.append(Finding(severity, "duplicates", what, _equal(table, within), fix))
    return found


def _groups(table: FeatureTable) -> tuple[np.ndarray, np.ndarray]:
    """Which of the different rows each row is, int64 [N], and how often each occurs; the target aside."""
    features = np.stack([column.codes for column in table.columns], axis=1)
    _, groups, sizes = np.unique(features, axis=0, return_inverse=True, return_counts=True)
    return groups.ravel(), sizes


def _answers(table: FeatureTable) -> tuple[np.ndarray, np.ndarray]:
    """What is to be predicted, as codes, int64 [N], and where it is known, bool [N]."""
    if table.labels is not None:
        return table.labels, table.labels >= 0
    assert table.amounts is not None
    return np.unique(table.amounts, return_inverse=True)[1].astype(np.int64).ravel(), np.isfinite(table.amounts)


def _rows_across(table: FeatureTable, pairs: list[tuple[int, int]], coarse: bool) -> list[Finding]:
    if not pairs:
        return []
    severity: Severity = "note"
    if coarse:
        fix = "fine if rows like these are what the model will see"
    elif len(pairs) > CHANCE * int((table.split_of != 0).sum()) and len(pairs) > 1:
        severity, fix = "error", "keep each row in one split only: what was trained on must not be tested on"
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
    """How good the best answer can be where equal rows have different ones."""
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
