"""Findings about images that occur more than once (`mlcli.data.likeness`)."""

from mlcli.data.finding import Finding, Severity
from mlcli.data.likeness import EQUAL, MIRRORED, NEAR, SAME, Pair
from mlcli.data.scan import Collection
from mlcli.text import plural, share

WORRYING, SERIOUS = 0.005, 0.01
"""Share of a split that nearly equals something in another, from which its score is too good by a visible amount; and
share that surely is in another from which the score cannot be trusted."""
REMEDY = "data.duplicates=one_split keeps copies in one split, data.duplicates=drop keeps one of each"
BY_HAND = "take one of each out of its split"  # of annotated pictures, for which there is no such key


def duplicate_findings(collection: Collection, pairs: list[Pair]) -> list[Finding]:
    """Across splits and under two labels first, which harm most."""
    kinds: dict[tuple[bool, str], list[Pair]] = {}
    for pair in pairs:
        sure = pair.likeness in (EQUAL, SAME)
        between = collection.split_of[pair.first] != collection.split_of[pair.second]
        differ = collection.labels[pair.first] != collection.labels[pair.second]
        for kind in (["across"] if between else []) + (["conflict"] if differ else []) or ["within"]:
            kinds.setdefault((sure, kind), []).append(pair)
    found, is_annotated = list[Finding](), not collection.class_names
    remedy = BY_HAND if is_annotated else REMEDY

    def note(severity: Severity, kind: str, what: str, pairs: list[Pair], fix: str, *, labels: bool = False) -> None:
        found.append(Finding(severity, kind, what, _places(collection, pairs, labels=labels), fix))

    if across := kinds.get((True, "across")):
        what, largest = _across(collection, across, "also in")
        note("error" if largest >= SERIOUS else "warning", "duplicates-across-splits", what, across, remedy)
    if conflict := kinds.get((True, "conflict")):
        what = f"{plural(len(conflict), 'pair')} of the same picture under different labels"
        note("error", "duplicates-with-different-labels", what, conflict, "decide on one label for each", labels=True)
    if across := kinds.get((False, "across")):
        what, largest = _across(collection, across, "nearly the same as one in")
        fix = "look at duplicates.png; pictures of the same thing belong into one split"
        note("warning" if largest >= WORRYING else "note", "near-duplicates-across-splits", what, across, fix)
    if conflict := kinds.get((False, "conflict")):
        what = f"{plural(len(conflict), 'pair')} of nearly the same picture under different labels"
        kind, fix = "near-duplicates-with-different-labels", "look at duplicates.png"
        note("warning", kind, what, conflict, fix, labels=True)
    if within := kinds.get((True, "within")):
        extra = len({pair.second for pair in within})
        what = f"{plural(extra, 'image repeats another', 'images repeat another')} of the same split"
        fix = "they count twice; " + (BY_HAND if is_annotated else "data.duplicates=drop keeps one of each")
        note("warning", "duplicates", what, within, fix)
    if within := kinds.get((False, "within")):
        one, many = "pair of images in one split is nearly equal", "pairs of images in one split are nearly equal"
        note("note", "near-duplicates", plural(len(within), one, many), within, "")
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
