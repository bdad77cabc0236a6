"""Pictures in tar shards as a listing: what lies in which split, with which label; read by position from then on.

Nothing is unpacked, and no order is given up: a picture is a row of an index (`tar_index`), so permutations, splits,
fingerprints, resuming and ranks are what they are for files in folders.
"""

import fnmatch
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from mlcli.data.finding import Finding
from mlcli.data.sources.listing import Listing, nothing
from mlcli.data.sources.remote_storage import RemoteStorage
from mlcli.data.sources.storage import TAR, LocalStorage, Shard, Storage, expanded
from mlcli.data.sources.tar import Damage, Member, members
from mlcli.data.sources.tar_index import CONNECTIONS, TarIndex, index_of, window_of
from mlcli.data.splits import SPLITS, named_split, sorted_classes
from mlcli.errors import DataError, UserError
from mlcli.outputs import refuse_unfinished
from mlcli.text import first_few, plural, without_secrets

CLASSES = "classes.txt"
"""File beside the shards that names the classes, a line each, of labels that are numbers."""


@dataclass(frozen=True, eq=False)
class OpenShards:
    """Shards ready to be read (`mlcli.data.places.Shards`)."""

    storage: Storage
    index: TarIndex

    def __str__(self) -> str:
        return self.storage.address

    def read(self, rows: Sequence[int]) -> Iterator[bytes]:
        return self._members(rows, self.index.offsets, self.index.sizes)

    def read_labels(self, rows: Sequence[int]) -> Iterator[bytes]:
        """The bytes of the label members, which these have."""
        return self._members(rows, self.index.label_offsets, self.index.label_sizes)

    def _members(self, rows: Sequence[int], offsets: np.ndarray, sizes: np.ndarray) -> Iterator[bytes]:
        shards, shard_of = self.index.shards, self.index.shard_of
        return self.storage.read_many([(shards[shard_of[row]], int(offsets[row]), int(sizes[row])) for row in rows])

    def path(self, row: int) -> bytes:
        index = self.index
        return index.shards[index.shard_of[row]].name.encode(errors="surrogateescape") + b"/" + index.member(row)

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        return self.index.sizes[rows]

    def stamps(self, rows: np.ndarray) -> np.ndarray:
        of_shard = np.array([hash_of(shard.stamp) for shard in self.index.shards], dtype=np.int64)
        return of_shard[self.index.shard_of[rows]]


def hash_of(text: str) -> int:
    """A number of 63 bits that is another for another text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def storage_at(root: Path | str) -> Storage:
    """Return the storage that a folder, a tar file or an address means. Raises ConfigError without what it needs."""
    return RemoteStorage(str(root)) if "://" in str(root) else LocalStorage(Path(root))


def open_shards(
    root: Path | str, patterns: Mapping[str, str] | None, label: str | None
) -> tuple[OpenShards, dict[str, list[int]], list[Finding]]:
    """Return shards, the numbers of those of each split ("" for none), and findings about their names.

    patterns: of the shards of each split; None to go by their names and folders. label: None to go by the first sample.
    Raises DataError if there are none, or they cannot be read.
    """
    if isinstance(root, Path):
        refuse_unfinished(root)
    storage, findings = storage_at(root), list[Finding]()
    names, of_split = list[str](), dict[str, list[int]]()
    if patterns:
        for split, pattern in patterns.items():
            wanted = expanded(pattern)
            if any(mark in pattern for mark in "*?["):
                there = storage.names()
                wanted = [name for name in there if any(fnmatch.fnmatchcase(name, one) for one in wanted)]
            if not wanted:
                raise DataError(f"no shard is called {pattern}", where=storage.address, fix=f"data.shards.{split}")
            of_split[split] = [*range(len(names), len(names) + len(wanted))]
            names += wanted
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(f"shards are named twice: {first_few(twice)}", where="data.shards", fix="name each once")
    else:
        names = storage.names()
        for number, name in enumerate(names):
            of_split.setdefault(split_of_name(name), []).append(number)
        if "train" not in of_split and "" in of_split:
            of_split["train"] = of_split.pop("")
    if not names:
        fix = "`mlcli data convert X.yaml DIR --to shards` writes shards of other data"
        raise DataError("there are no .tar files", where=storage.address, fix=fix)
    if unused := of_split.pop("", []):
        what = f"{plural(len(unused), 'shard is', 'shards are')} called after no split, and not used"
        places = tuple(names[number] for number in unused)
        findings.append(Finding("warning", "unused-shards", what, places, "data.shards={train: 'a-*.tar', val: ...}"))
    used = sorted(number for numbers in of_split.values() for number in numbers)
    position = {number: place for place, number in enumerate(used)}
    of_split = {split: [position[number] for number in numbers] for split, numbers in of_split.items()}
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        asked = (pool.map if storage.is_remote else map)(storage.shard, [names[number] for number in used])
        shards = list(asked)
    index = index_of(storage, shards, label or label_of(storage, shards))
    return OpenShards(storage, index), of_split, [*index.findings, *findings]


def split_of_name(name: str) -> str:
    """The split that a shard, or its folder, is called after: train-000.tar, val/7.tar; empty for none."""
    path = PurePosixPath(name)
    words = [*path.parts[:-1], *re.split(r"[^A-Za-z0-9]+", path.name.partition(".")[0])]
    return next(filter(None, map(named_split, words)), "")


def label_of(storage: Storage, shards: Sequence[Shard]) -> str:
    """The ending of the label of the first sample: cls, else the entry `label` of json, else txt."""
    found = first_sample(storage, shards[0])
    return next((label for label in ("cls", "json.label", "txt") if label.partition(".")[0] in found), "cls")


def first_sample(storage: Storage, shard: Shard) -> dict[str, Member]:
    """The members of the first sample of a shard by their endings; what is wrong with it the index will say."""
    found, key = dict[str, Member](), None
    try:
        for member in members(window_of(storage, shard), shard.size):
            stem, dot, ending = member.name.decode(errors="replace").rpartition("/")[2].partition(".")
            if not stem or not dot or member.kind != b"0":
                continue
            if key not in (None, stem):
                break
            key = stem
            found[ending.lower()] = member
    except Damage:
        pass
    return found


def has_shards(folder: Path) -> bool:
    """Whether a folder holds tar files, or folders called after splits do; or it is one."""
    if folder.is_file():
        return folder.name.lower().endswith(".tar")
    try:
        below = [folder, *(one for one in sorted(folder.iterdir())[:50] if one.is_dir() and named_split(one.name))]
        return any(path.name.lower().endswith(TAR) for one in below for path in one.iterdir())
    except OSError:
        return False


def read_shards(
    root: Path | str,
    *,
    shards: Mapping[str, str] | None = None,
    label: str | None = None,
    val: float = 0.15,
    test: float = 0.15,
) -> Listing:
    """Pictures with a class each. Never raises.

    shards, label: as for `open_shards`. val, test: the shares to be held out where no shards are that split's.
    """
    try:
        opened, of_split, findings = open_shards(root, shards, label)
        class_names, class_of, problems = _classes(opened)
    except UserError as error:
        places = (error.where,) if error.where else ()
        return nothing(without_secrets(str(root)), [Finding("error", "shards", error.what, places, error.fix)])
    index = opened.index
    if not len(index):
        found = [*findings, *problems, Finding("error", "no-samples", "there is no picture with a label in the shards")]
        return nothing(opened, found)
    split_of_shard = np.zeros(len(index.shards), dtype=np.int8)
    for split, numbers in of_split.items():
        split_of_shard[numbers] = SPLITS.index(split)
    held_out = {split: share for split, share in {"val": val, "test": test}.items() if split not in of_split}
    return Listing(
        origin=str(opened),
        root=opened,
        class_names=class_names,
        paths=np.arange(len(index), dtype=np.int64),
        labels=class_of[index.codes],
        split_of=split_of_shard[index.shard_of],
        held_out=held_out,
        findings=(*findings, *problems),
    )


def _classes(shards: OpenShards) -> tuple[tuple[str, ...], np.ndarray, list[Finding]]:
    """Names of the classes, and the class of each of the index's labels, with -1 (the last entry) for none."""
    texts, findings = shards.index.labels, list[Finding]()
    content = shards.storage.small(CLASSES)
    if content is None:
        names = sorted_classes(texts)
        position = {name: label for label, name in enumerate(names)}
    else:
        names = tuple(line.rstrip("\r") for line in content.decode(errors="backslashreplace").split("\n"))
        names = names[:-1] if names[-1] == "" else names
        position = {str(number): number for number in range(len(names))}
        position |= {name: number for number, name in enumerate(names)} if not position.keys() & set(names) else {}
        unknown = tuple(text for text in texts if text not in position)
        if unknown:
            what = f"{plural(len(unknown), 'label is', 'labels are')} in no line of {CLASSES}, which has {len(names):,}"
            fix = f"a line for each class in {CLASSES}, that of label 0 first"
            findings.append(Finding("error", "unknown-label", what, unknown[:20], fix))
    return names, np.array([*(position.get(text, -1) for text in texts), -1], dtype=np.int64), findings
