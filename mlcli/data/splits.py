"""Division into training, validation and test: stratified by class and fixed by a seed alone."""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlcli.errors import DataError
from mlcli.text import first_few, listed

SPLITS = ("train", "val", "test")
ALIKE = "differ only by case, blanks, punctuation, zeros or what cannot be seen"
_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev"),
    "test": ("test", "testing", "eval", "evaluation", "holdout", "heldout"),
}
_CALLED = {word: split for split, words in _WORDS.items() for word in words}
_JOINT = re.compile(r"\s*[;,|/+&]\s*")
_WORD = re.compile(
    rf"(seg|my|the)?({'|'.join(sorted(_CALLED, key=len, reverse=True))})(set|data|dataset|images|imgs|img|split)?\d*"
)


def named_split(word: str) -> str:
    """Return the split that a folder, key or cell is called after, in any case; empty if it is none.

    `Training`, `train_set`, `seg_train` and `train2017` are train; `dev` is val; `eval` and `holdout` are test, as they
    are to others who publish data. `holdout` may be written `hold-out` or `held out`.
    """
    match = _WORD.fullmatch(re.sub(r"[\W_]+", "", word.lower()))
    return _CALLED[match[2]] if match else ""


def rows_of(split_of: np.ndarray) -> dict[str, np.ndarray]:
    """Positions of each split that has any, int64 [n], ascending. split_of: int8 [N], positions in SPLITS."""
    found = {split: np.flatnonzero(split_of == code) for code, split in enumerate(SPLITS)}
    return {split: rows for split, rows in found.items() if len(rows)}


def sorted_classes(classes: Collection[str]) -> tuple[str, ...]:
    """Return the names of classes, sorted: by value if all are whole numbers, else as text."""
    whole = all(re.fullmatch(r"-?[0-9]{1,4000}", name) for name in classes)  # Python reads no longer ones
    return tuple(sorted(classes, key=lambda name: (int(name), name)) if whole else sorted(classes))


def plain_name(name: str) -> str:
    """Return the name of a class with case, accents' encoding, blanks, dashes and unseen characters aside; of a number,
    1.0, its value.

    A single letter keeps its case: A and a are two classes of handwriting. Between digits a sign has a meaning (1-0 and
    10), and other signs have one too (C and C++).
    """
    text = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf").strip()
    if re.fullmatch(r"[+-]?[0-9]{1,15}(\.0*)?", text, re.ASCII):
        return str(int(text.partition(".")[0]))
    letters = re.sub(r"(?<!\d)[\s_-]+|[\s_-]+(?!\d)", "", text)
    return letters.casefold() if len(letters) > 1 else letters or text


def alike(class_names: Sequence[str]) -> list[list[str]]:
    """Return the groups of names that are plainly the same."""
    plain: dict[str, list[str]] = {}
    for name in class_names:
        plain.setdefault(plain_name(name), []).append(name)
    return [names for names in plain.values() if len(names) > 1]


def told_alike(class_names: Sequence[str]) -> list[str]:
    """Return a sentence about classes whose names are plainly the same; none if there are none."""
    pairs = [" / ".join(map(repr, names)) for names in alike(class_names)]
    return [f"WARNING: different classes whose names {ALIKE}: {first_few(pairs)}; spell each one way"] if pairs else []


def told_several(class_names: Sequence[str]) -> list[str]:
    """Return a sentence about classes that are named after several others (cat;bird); none if there are none."""
    names = [name for name in class_names if len(parts := _JOINT.split(name)) > 1 and {*parts} <= {*class_names}]
    what = f"WARNING: classes that are named after several others: {first_few(map(repr, names))}"
    return [f"{what}; a sample has one label here, so each of these is learned as one more class"] if names else []


@dataclass(frozen=True, eq=False)
class Divisible:
    """Samples that are to be divided.

    labels: int [N]; every split has each class in proportion. None where there are no classes.
    groups: int [N]; samples of one group go to one split together, divided by the label of the first of them.
    unit, where: how errors call the samples and their place.
    """

    count: int
    labels: np.ndarray | None = None
    class_names: Sequence[str] = ()
    groups: np.ndarray | None = None
    unit: str = "images"
    where: str = ""

    def only(self, rows: np.ndarray) -> "Divisible":
        """The samples at these positions."""
        labels, groups = (None if values is None else values[rows] for values in (self.labels, self.groups))
        return replace(self, count=len(rows), labels=labels, groups=groups)


def hold_out(samples: Divisible, split_of: np.ndarray, shares: dict[str, float], seed: int) -> np.ndarray:
    """Return the split of each sample, int8 [N], once shares of those in train are moved to the splits that lack them.

    split_of: int8 [N], positions in SPLITS. Drawn, and refused, as by `split_indices`.
    """
    train, split_of = np.flatnonzero(split_of == 0), split_of.copy()
    for split, chosen in split_indices(samples.only(train), shares, seed).items():
        split_of[train[chosen]] = SPLITS.index(split)
    return split_of


def split_indices(samples: Divisible, shares: dict[str, float], seed: int) -> dict[str, np.ndarray]:
    """Sorted, disjoint indices per split: "train" and one for each share above 0.

    The same samples in the same order give the same splits for the same seed.

    shares: what part of all samples each held-out split takes, such as {"val": 0.15, "test": 0.15}.

    Raises DataError if a class, or the whole, is too small to be divided.
    """
    if samples.groups is not None:
        _, first, group_of = np.unique(samples.groups, return_index=True, return_inverse=True)
        of_groups = split_indices(replace(samples.only(first), groups=None), shares, seed)
        return {split: np.flatnonzero(np.isin(group_of, chosen)) for split, chosen in of_groups.items()}
    labels, unit = samples.labels, samples.unit
    counts = {split: max(1, round(share * samples.count)) for split, share in shares.items() if share > 0}
    if sum(counts.values()) >= samples.count:
        what = f"{samples.count} {unit} are too few to be divided into {listed(['train', *counts])}"
        fix = f"use more {unit}, or smaller shares: " + " ".join(f"data.{split}=0" for split in counts)
        raise DataError(what, where=samples.where, fix=fix)
    if labels is not None:
        _check_classes(samples, labels, counts, shares)
    rest = np.arange(samples.count)
    splits = {}
    for position, (split, count) in enumerate(counts.items()):
        # A class that is down to its last sample stays in training; it cannot be stratified any further.
        movable = rest if labels is None else rest[np.bincount(labels[rest])[labels[rest]] > 1]
        # Another seed each time: with the same one, what was passed over once would be passed over again.
        chosen = draw(len(movable), count, seed + position, None if labels is None else labels[movable])
        splits[split] = held_out = movable[chosen]
        rest = np.setdiff1d(rest, held_out, assume_unique=True)
    if labels is not None:
        lost = [repr(samples.class_names[label]) for label in np.setdiff1d(labels, labels[rest]).tolist()]
        if lost:  # seen with a class of three and 60 % held out
            what = f"no {unit} are left to train on of {first_few(lost)}"
            fix = f"smaller {listed([f'data.{split}' for split in counts])}, or more {unit} of these classes"
            raise DataError(what, where=samples.where, fix=fix)
    return {"train": rest, **splits}


def groups_together(groups: np.ndarray, split_of: np.ndarray) -> np.ndarray:
    """Return the split of each sample, int8 [N], with each group as a whole in the split of its that is held out most:
    test before val before train. groups: int [N]; split_of: int8 [N], positions in SPLITS."""
    _, group_of = np.unique(groups, return_inverse=True)
    latest = np.zeros(group_of.max(initial=-1) + 1, dtype=split_of.dtype)
    np.maximum.at(latest, group_of, split_of)
    return latest[group_of]


def one_of_each(groups: np.ndarray, split_of: np.ndarray) -> np.ndarray:
    """Return positions, int64 ascending, of one sample of each group: the first of those that are held out most."""
    order = np.lexsort((np.arange(len(groups)), -split_of, groups))
    _, first = np.unique(groups[order], return_index=True)
    return np.sort(order[first])


def refuse_emptied(before: np.ndarray, after: np.ndarray, where: str) -> None:
    """Raise DataError if a split has lost all of its samples to `groups_together` or `one_of_each`.

    before, after: int8 [N], positions in SPLITS.
    """
    lost = [split for code, split in enumerate(SPLITS) if (before == code).any() and not (after == code).any()]
    if lost:
        what = (
            f"data.duplicates leaves nothing in {listed(lost)}: all of it has copies in a split that is held out more"
        )
        raise DataError(what, where=where, fix="remove the copies from the other splits, or data.duplicates=keep")


def _check_classes(samples: Divisible, labels: np.ndarray, counts: dict[str, int], shares: dict[str, float]) -> None:
    class_names, unit = samples.class_names, samples.unit
    sizes = np.bincount(labels, minlength=len(class_names))
    parts = 1 + len(counts)
    small = [f"'{class_names[label]}' has {sizes[label]}" for label in np.flatnonzero(sizes < parts).tolist()]
    if small and counts:
        what = f"classes too small to be divided: {first_few(small)}; each needs at least {parts} {unit}, "
        what += f"one for each of {listed(['train', *counts])}"
        raise DataError(what, where=samples.where, fix=f"add {unit} to these classes or remove them")
    for split, count in counts.items():
        if count < len(class_names):
            enough = np.ceil(100 * len(class_names) / len(labels)) / 100
            what = (
                f"data.{split}: {shares[split]} of {len(labels)} {unit} is {count}, fewer than the {len(class_names)} "
            )
            what += "classes, each of which must be in it"
            fix = f"data.{split}={enough:g} or larger, data.{split}=0 for none, or more {unit}"
            raise DataError(what, where=samples.where, fix=fix)
    left = len(labels) - sum(counts.values())
    if left < len(class_names):
        what = f"data.val and data.test leave {left} {unit} to train on, fewer than the {len(class_names)} classes"
        raise DataError(what, where=samples.where, fix=f"smaller data.val and data.test, or more {unit}")


def check_same_classes(labels: dict[str, np.ndarray], class_names: Sequence[str], unit: str, where: str) -> None:
    """Every split must know every class: what is never trained cannot be recognised, what is never tested is not known.

    labels: int [N] for each split. Raises DataError naming all classes that a split lacks.
    """
    faults = []
    for split, present in labels.items():
        absent = np.flatnonzero(np.bincount(present, minlength=len(class_names)) == 0).tolist()
        if absent:
            faults.append(f"{split} has no {unit} of {first_few([repr(class_names[label]) for label in absent])}")
    if faults:
        what = "the splits do not hold the same classes: " + "; ".join(faults)
        fix = f"spell the classes alike in all splits, and add {unit} of those that are missing or remove them"
        raise DataError(what, where=where, fix=fix)


def class_balance(targets: np.ndarray | Sequence[int], names: Sequence[str]) -> str:
    """One line about the classes' shares: "10 classes, balanced (9.6-10.3 %)", or the largest and smallest by name."""
    sizes = np.bincount(np.asarray(targets), minlength=len(names))
    percent = 100 * sizes / max(1, sizes.sum())
    low, high = int(percent.argmin()), int(percent.argmax())
    if sizes[high] <= 1.5 * sizes[low]:
        spread = (
            f"{percent[low]:.1f}-{percent[high]:.1f} %" if sizes[low] != sizes[high] else f"{percent[low]:.1f} % each"
        )
        return f"{len(names)} classes, balanced ({spread})"
    return (
        f"{len(names)} classes, unbalanced: from '{names[low]}' ({sizes[low]}, {percent[low]:.1f} %) "
        f"to '{names[high]}' ({sizes[high]}, {percent[high]:.1f} %)"
    )


# --- drawing ---------------------------------------------------------------------------------------------------------


def draw(num_samples: int, count: int, seed: int, labels: np.ndarray | None = None) -> np.ndarray:
    """Positions of `count` of the samples in ascending order; with labels int [N], each class in proportion.

    The same as the held-out part of scikit-learn's `train_test_split(test_size=count, random_state=seed,
    stratify=labels)`, sample for sample: importing it costs half as much as importing torch, and splits drawn by
    versions of mlcli that used it stay what they are. With labels, each class has two samples or more, and both parts
    have room for all classes.
    """
    random = np.random.RandomState(seed)
    if labels is None:
        return np.sort(random.permutation(num_samples)[:count])
    _, label_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(label_of, kind="stable"), np.cumsum(sizes)[:-1])
    stay = _shares(sizes, num_samples - count, random)
    leave = _shares(sizes - stay, count, random)
    drawn = [
        rows[random.permutation(len(rows))[first : first + number]]
        for rows, first, number in zip(members, stay, leave, strict=True)
    ]
    return np.sort(np.concatenate(drawn))


def _shares(sizes: np.ndarray, count: int, random: np.random.RandomState) -> np.ndarray:
    """Divide `count` samples among the classes, int [C]: in proportion to the sizes, rounded down, and the rest by
    the largest remainders, ties by lot."""
    exact = sizes / sizes.sum() * count
    shares = np.floor(exact)
    remainders, missing = exact - shares, int(count - shares.sum())
    for remainder in np.unique(remainders)[::-1]:
        if missing <= 0:
            break
        (tied,) = np.where(remainders == remainder)
        number = min(len(tied), missing)
        shares[random.choice(tied, size=number, replace=False)] += 1
        missing -= number
    return shares.astype(int)
