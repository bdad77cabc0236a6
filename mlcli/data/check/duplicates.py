"""Images that occur more than once: within a split, in two splits (then the score is too good), under two labels."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlcli.data.check.collection import Collection
from mlcli.data.check.finding import Finding, Severity
from mlcli.data.check.images import blank_images
from mlcli.data.check.likeness import Likeness, equal_groups, near_pairs
from mlcli.data.check.scan import SIDE, Scan
from mlcli.errors import DataError
from mlcli.text import plural, share

EQUAL, SAME, NEAR, MIRRORED = "equal", "saved anew", "nearly equal", "mirrored"
WORRYING = 0.005
"""Share of a split that nearly equals something in another, from which its score is too good by a visible amount."""
MOST_KINDS = 8
"""Splits and labels that one image is paired across; a picture that stands for "no image" may be in all classes."""


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
        for members in _confirmed(collection, scan, rows, group, sizes):
            positions = scan.read[rows[members]]
            pairs += _paired(collection, positions)
            repeated[members[1:]] = True
    once = np.flatnonzero(~repeated)
    return pairs + _near(scan.read[rows[once]], near_pairs(pixels[once])) if len(once) > 1 else pairs


def _near(positions: np.ndarray, found: Likeness) -> list[Pair]:
    kinds = np.where(found.mirrored, MIRRORED, np.where(found.same, SAME, NEAR))
    return [
        Pair(int(positions[i]), int(positions[j]), str(kind), float(score))
        for (i, j), kind, score in zip(found.pairs.tolist(), kinds, found.score.tolist(), strict=True)
    ]


def _confirmed(
    collection: Collection, scan: Scan, rows: np.ndarray, group: np.ndarray, sizes: np.ndarray
) -> list[np.ndarray]:
    """The group by its whole pixels: 32x32 of a large image are a hint only."""
    if (sizes[group[0]] <= SIDE).all():
        return [group]
    by_content: dict[bytes, list[int]] = {}
    for member in group.tolist():
        try:
            picture = collection.pictures.picture(int(scan.read[rows[member]]))
        except DataError:  # gone since it was read
            continue
        by_content.setdefault(hashlib.blake2b(picture.tobytes()).digest(), []).append(member)
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


# --- findings --------------------------------------------------------------------------------------------------------


def duplicate_findings(collection: Collection, pairs: list[Pair]) -> list[Finding]:
    """Across splits and under two labels first, which harm most."""
    sure = [pair for pair in pairs if pair.likeness in (EQUAL, SAME)]
    alike = [pair for pair in pairs if pair.likeness in (NEAR, MIRRORED)]

    def crosses(pair: Pair) -> bool:
        return bool(collection.split_of[pair.first] != collection.split_of[pair.second])

    def disagrees(pair: Pair) -> bool:
        return bool(collection.labels[pair.first] != collection.labels[pair.second])

    found = []
    if across := [pair for pair in sure if crosses(pair)]:
        fix = "keep each picture in one split only: what was trained on must not be tested on"
        what, _ = _across(collection, across, "also in")
        found.append(Finding("error", "duplicates-across-splits", what, _places(collection, across), fix))
    if conflicting := [pair for pair in sure if disagrees(pair)]:
        what = f"{plural(len(conflicting), 'pair')} of the same picture under different labels"
        found.append(Finding("error", "duplicates-with-different-labels", what,
                             _places(collection, conflicting, _labels), "decide on one label for each"))  # fmt: skip
    if across := [pair for pair in alike if crosses(pair)]:
        fix = "look at duplicates.png; what shows the same belongs into one split"
        what, largest = _across(collection, across, "nearly the same as one in")
        severity: Severity = "warning" if largest >= WORRYING else "note"
        found.append(Finding(severity, "near-duplicates-across-splits", what, _places(collection, across), fix))
    if conflicting := [pair for pair in alike if disagrees(pair)]:
        what = f"{plural(len(conflicting), 'pair')} of nearly the same picture under different labels"
        found.append(Finding("warning", "near-duplicates-with-different-labels", what,
                             _places(collection, conflicting, _labels), "look at duplicates.png"))  # fmt: skip
    if within := [pair for pair in sure if not crosses(pair) and not disagrees(pair)]:
        extra = len({pair.second for pair in within})
        what = f"{plural(extra, 'image repeats another', 'images repeat another')} of the same split"
        found.append(Finding("warning", "duplicates", what, _places(collection, within),
                             "remove the copies: they weigh double"))  # fmt: skip
    if within := [pair for pair in alike if not crosses(pair) and not disagrees(pair)]:
        what = plural(len(within), "pair of images in one split is nearly equal",
                      "pairs of images in one split are nearly equal")  # fmt: skip
        found.append(Finding("note", "near-duplicates", what, _places(collection, within), ""))
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


def _splits(collection: Collection, index: int) -> str:
    name, split = collection.name(index), collection.split(index)
    return name if name.startswith(f"{split}/") or len(collection.splits) == 1 else f"{name} ({split})"


def _labels(collection: Collection, index: int) -> str:
    label = collection.label(index) or "no label"
    return f"{_splits(collection, index)} '{label}'"


def _places(
    collection: Collection, pairs: list[Pair], named: Callable[[Collection, int], str] = _splits
) -> tuple[str, ...]:
    sign = {EQUAL: "=", SAME: "=", NEAR: "~", MIRRORED: "~ mirrored"}
    return tuple(
        f"{named(collection, pair.first)} {sign[pair.likeness]} {named(collection, pair.second)}" for pair in pairs
    )
