"""Which samples are in which split of a run, kept with it, so that each is found again wherever it lies by now.

A sample is known by hashes of what it is, not by its position: rows may be sorted, files added, folders moved. What the
hashes see is said in `mlcli.data.fingerprints`.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from mlcli.errors import CheckpointError, DataError
from mlcli.reading import safetensors_texts
from mlcli.text import first_few, listed, plural

Sees = Literal["contents", "sizes"]
NEW = "new"
"""The split that all of new data are, where a model is measured on them."""


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """Hashes of N samples.

    keys: uint64 [N, K], K ways to know a sample again, the surest first. Of rows and arrays one: their contents. Of
        files three: contents and place, contents wherever they lie, place whatever lies there.
    targets: uint64 [N], of what is to be answered.
    sees: whether files are hashed by their contents or by their sizes.
    name: what a person calls the sample at a position.
    """

    keys: np.ndarray
    targets: np.ndarray
    sees: Sees = "contents"
    name: Callable[[int], str] = str

    def __len__(self) -> int:
        return len(self.targets)

    def only(self, rows: np.ndarray) -> "Fingerprints":
        """Those at some positions, int64 [n], in that order."""
        name = self.name
        return Fingerprints(self.keys[rows], self.targets[rows], self.sees, lambda row: name(int(rows[row])))


@dataclass(frozen=True, eq=False)
class Membership:
    """The samples of each split, in the order in which training counts them."""

    splits: Mapping[str, Fingerprints]

    @property
    def sees(self) -> Sees:
        return next(iter(self.splits.values())).sees

    def rows(self) -> Iterator[tuple[str, str]]:
        """Name and split of each sample."""
        for split, part in self.splits.items():
            yield from ((part.name(row), split) for row in range(len(part)))

    def digests(self) -> dict[str, str]:
        """A hash of each split: of its samples, their targets and their order."""
        return {
            split: hashlib.sha256(part.keys.tobytes() + part.targets.tobytes()).hexdigest()[:12]
            for split, part in self.splits.items()
        }

    def to_bytes(self) -> bytes:
        """The hashes as a safetensors file: 16 bytes for each row of a table, 32 for each file."""
        tensors = {f"{split}.keys": np.ascontiguousarray(part.keys) for split, part in self.splits.items()}
        tensors |= {f"{split}.targets": np.ascontiguousarray(part.targets) for split, part in self.splits.items()}
        metadata = {"sees": self.sees, "splits": " ".join(self.splits)}  # its tensors come back in another order
        return safetensors.numpy.save(tensors, metadata)

    @classmethod
    def from_bytes(cls, content: bytes) -> "Membership":
        """The inverse of `to_bytes`, but for the names. Raises CheckpointError for anything else."""
        try:
            tensors = safetensors.numpy.load(content)
            metadata = safetensors_texts(content)
            sees: Sees = metadata["sees"]
            splits = {
                split: Fingerprints(tensors[f"{split}.keys"], tensors[f"{split}.targets"], sees)
                for split in metadata["splits"].split()
            }
            parts = [*splits.values()]
            sound = sees in ("contents", "sizes") and all(
                part.keys.dtype == part.targets.dtype == np.uint64
                and part.keys.shape == (len(part), parts[0].keys.shape[1])
                and part.targets.ndim == 1
                for part in parts
            )
            if not sound or "train" not in splits:
                raise ValueError("no hashes of a training split")
        except (SafetensorError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"this is not a list of splits as mlcli writes them: {error}") from error
        return cls(splits)


@dataclass(frozen=True)
class Changes:
    """How data differ from those a run began with: numbers of samples by the split they were in then.

    members: all of them. lost: not found. relabelled: with other targets. replaced: with other contents in their place.
    moved: given to another split by now, by folders or a column.
    new: in no split of the run. judged: trained on, and in that split if it were drawn or read anew.
    """

    members: Mapping[str, int]
    lost: Mapping[str, int]
    relabelled: Mapping[str, int]
    replaced: Mapping[str, int]
    moved: Mapping[str, int]
    new: int
    judged: Mapping[str, int]

    def found(self, split: str) -> int:
        """Samples of a split that are there."""
        return self.members.get(split, 0) - self.lost.get(split, 0)

    def __bool__(self) -> bool:
        counts = (self.lost, self.relabelled, self.replaced, self.moved)
        return self.new > 0 or any(count for each in counts for count in each.values())

    def lines(self) -> list[str]:
        """What has changed, in words: `3 of 90 test samples are gone`."""
        told = []
        for counts, what in (
            (self.lost, "gone"),
            (self.relabelled, "labelled otherwise now"),
            (self.replaced, "other contents under the same name"),
            (self.moved, "in another split by now"),
        ):
            each = [f"{count:,} of {self.members[split]:,} {split} samples" for split, count in counts.items() if count]
            told += [f"{listed(each)} are {what}"] if each else []
        if self.new:
            told.append(f"{plural(self.new, 'sample is', 'samples are')} new and in no split of the run")
        return told


class OtherData(DataError):
    """Nothing of a run's data is found, or not in a form that its model knows."""


@dataclass(eq=False)
class KnownData:
    """What a run knows of its data, for the readers that look at them once more.

    purpose: "resume", when they must be what they were; "evaluate", when those found count; "measure", when all samples
        are new ones to be measured, whatever split they are said to be in.
    members: None where a run has not stored them. Then "measure" still counts, "resume" says only that it is a run of
        version 0.1.0, and "evaluate" is not asked.
    info: `DataInfo.to_plain()` of the checkpoint: how samples are encoded, and the classes; None to find it anew.
    elsewhere: whether the data are said to lie in another place than the run's: there, a file of the same name is not
        yet the same.
    changes: what `divide` found. notes: what else a person should hear.
    trained: with "measure", how many samples were trained on.
    """

    purpose: Literal["resume", "evaluate", "measure"]
    members: Membership | None
    info: dict[str, Any] | None = None
    elsewhere: bool = False
    changes: Changes | None = None
    notes: list[str] = field(default_factory=list)
    trained: int = 0

    @property
    def is_of_old_version(self) -> bool:
        """Whether a run of 0.1.0 is resumed, of which is not known which samples were in which split."""
        return self.purpose == "resume" and self.members is None

    @property
    def sees(self) -> Sees | None:
        """How the run's files are hashed; None where that is not known, or there are none."""
        return self.members.sees if self.members else None

    def divide(
        self, found: Fingerprints, now: Mapping[str, np.ndarray], drawn: Collection[str], where: str
    ) -> dict[str, np.ndarray]:
        """For each split the positions of its samples among all that were found, int64 [n], in the run's order.

        Args:
            now: the positions in each split as it would be without knowing better; empty if it cannot be made.
            drawn: splits among them that are drawn from training, not given by folders or a column.
            where: the place of the data, for messages.

        Raises DataError if a run is to be resumed on other data, OtherData if none is found.
        """
        if self.purpose == "measure":
            everything = np.arange(len(found))
            if self.members and self.members.splits["train"].keys.shape[1] == found.keys.shape[1]:
                train = self.members.splits["train"]
                seen = slice(0, 2)  # a new picture may be called as an old one
                self.trained = int(np.isin(found.keys[:, seen], train.keys[:, seen]).any(axis=1).sum())
            return {"train": everything, NEW: everything}
        assert self.members is not None
        names = [*self.members.splits]
        parts = [*self.members.splits.values()]
        stored = Fingerprints(np.concatenate([part.keys for part in parts]),
                              np.concatenate([part.targets for part in parts]))  # fmt: skip
        split_of = np.repeat(np.arange(len(names)), [len(part) for part in parts])
        match = _match(stored, found)
        self.changes = _changes(names, split_of, match, now, drawn)
        if self.purpose == "resume" and self.changes:
            told = self.changes.lines()
            what = f"the data have changed since the run began: {told[0]}"
            raise DataError(what, where="; ".join([where, *told[1:]]), fix="restore the data, or start a new run")
        if not (match.known & (match.by < 2 if self.elsewhere else True)).any():
            raise OtherData(
                f"none of the run's {len(stored):,} samples is among the {len(found):,} there are now", where=where
            )
        splits = {name: match.at[(split_of == code) & match.known] for code, name in enumerate(names)}
        splits = {split: rows for split, rows in splits.items() if len(rows)}
        return {"train": next(iter(splits.values())), **splits}  # a place without training samples needs some as such

    def relabelled(
        self, chosen: dict[str, np.ndarray], labels: np.ndarray, class_names: Sequence[str], where: str
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The samples of each split, and all labels (int64 [N], -1 for none), in terms of the classes the model knows.

        New samples of other classes are left out, and counted in the notes. Raises OtherData where a sample of the run
        has such a class, or none is left.
        """
        if self.info is None:
            return chosen, labels
        label_of = {name: label for label, name in enumerate(self.info["class_names"])}
        labels = np.array([*(label_of.get(name, -1) for name in class_names), -1])[labels]
        unknown = np.unique(np.concatenate([rows[labels[rows] < 0] for rows in chosen.values()]))
        if not len(unknown):
            return chosen, labels
        others = first_few([repr(name) for name in class_names if name not in label_of])
        left = {split: rows[labels[rows] >= 0] for split, rows in chosen.items()}
        if self.purpose != "measure" or not len(left["train"]):
            known = first_few([repr(name) for name in label_of])
            what = f"the model does not know the classes of {plural(len(unknown), 'sample')}: {others}"
            raise OtherData(what, where=where, fix=f"it knows {known}; name the classes of the data so")
        self.notes.append(
            f"{plural(len(unknown), 'sample is', 'samples are')} of classes that the model does not know, and left "
            f"out: {others}"
        )
        return left, labels


class _Match(NamedTuple):
    """Stored samples among those found.

    at: for each stored one the position of one found that it is, -1 for none. by: which key tells so. int64 [N] each.
    """

    stored: Fingerprints
    found: Fingerprints
    at: np.ndarray
    by: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Whether it is there: bool [N]."""
        return self.at >= 0


def _changes(
    names: Sequence[str], split_of: np.ndarray, match: _Match, now: Mapping[str, np.ndarray], drawn: Collection[str]
) -> Changes:
    """Count what a match means for each split."""

    def count(which: np.ndarray) -> dict[str, int]:
        numbers = np.bincount(split_of[which], minlength=len(names)).tolist()
        return {name: number for name, number in zip(names, numbers, strict=True) if number}

    stored, found, at, by = match
    known = match.known
    other_target = np.zeros_like(known)
    other_target[known] = stored.targets[known] != found.targets[at[known]]
    now_in = np.full(len(found), -1)  # the position of the split in names
    now_given, given = now_in.copy(), np.array([-1 if name in drawn else code for code, name in enumerate(names)])
    for split, rows in now.items():
        now_in[rows] = names.index(split) if split in names else len(names)
        now_given[rows] = now_in[rows] if split not in drawn else names.index("train")  # where it was drawn from
    given[given < 0] = names.index("train")
    moved = np.zeros_like(known)
    if now:
        moved[known] = given[split_of[known]] != now_given[at[known]]
    trained = now_in[at[known & (split_of == names.index("train"))]]
    judged = {name: int((trained == code).sum()) for code, name in enumerate(names) if name != "train"}
    return Changes(
        members=count(np.ones_like(known)),
        lost=count(~known),
        relabelled=count(other_target),
        replaced=count(by == 2),
        moved=count(moved),
        new=len(found) - int(known.sum()),
        judged={name: number for name, number in judged.items() if number},
    )


def _match(stored: Fingerprints, found: Fingerprints) -> _Match:
    """Each is used once. Of equal ones the first is the first; one with the same target comes before the others."""
    at, by = np.full((2, len(stored)), -1)
    if stored.keys.shape[1] != found.keys.shape[1]:
        return _Match(stored, found, at, by)
    free = np.ones(len(found), dtype=bool)
    for key in range(stored.keys.shape[1]):
        for with_target in (True, False):
            wanted, offered = np.flatnonzero(at < 0), np.flatnonzero(free)
            a, b = (
                _numbered(mixed(keys ^ mixed(prints.targets[rows])) if with_target else keys)
                for prints, rows in ((stored, wanted), (found, offered))
                for keys in (prints.keys[rows, key],)
            )
            _, first, second = np.intersect1d(a, b, assume_unique=True, return_indices=True)
            at[wanted[first]], by[wanted[first]] = offered[second], key
            free[offered[second]] = False
    return _Match(stored, found, at, by)


def _numbered(keys: np.ndarray) -> np.ndarray:
    """Hashes that differ also where keys, uint64 [N], are equal: by which of the equal ones it is."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(keys[order]) != 0)[: len(keys)])
    number = np.empty(len(keys), dtype=np.uint64)
    number[order] = np.arange(len(keys)) - np.repeat(starts, np.diff(np.append(starts, len(keys))))
    return mixed(keys + mixed(number))


def mixed(values: np.ndarray) -> np.ndarray:
    """Scatter numbers, uint64 [...], so that each bit depends on every other (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))
