"""The index of tar shards: which picture lies where, made once from the headers and kept for the next time.

Samples are those of WebDataset (github.com/webdataset/webdataset): members in a row whose names are equal up to the
first dot of the last part, the key; what follows is the ending, which says what a member is: cat/7.jpg and cat/7.cls.

In memory and on disk it is a handful of arrays, some 60 bytes for a sample. The file is safetensors (no pickle) behind
a CRC-32; it counts only while name, size and time of change of every shard are what they were, and is made anew else.
"""

import hashlib
import json
import shlex
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from mlcli.data.decode import EXTENSIONS
from mlcli.data.finding import Finding
from mlcli.data.jpeg import MOST_FILE_BYTES
from mlcli.data.sources.storage import COMPRESSED, Shard, Storage
from mlcli.data.sources.tar import Damage, Member, members
from mlcli.errors import OutputError
from mlcli.files import write_atomically
from mlcli.outputs import cache_folder, make_output_folder
from mlcli.reading import MOST_TEXT_BYTES, read_file, safetensors_texts
from mlcli.show.terminal import progress
from mlcli.text import plural, visible

WINDOW = 2**16
"""Bytes read at once: of small members many, of large ones little more than the header."""
MOST_NAME, MOST_LABEL, MOST_JSON = 4096, 1000, 2**24
"""Bytes of a name, of a label written as text, and of a JSON member."""
MOST_LABELS = 100_000
"""Different labels; captions and ids are no classes."""
CONNECTIONS = 8
"""Shards over a network that are indexed at once."""
PLACES = 20
"""Faults of a kind that are named; more are counted."""
_FORMAT = 1
_PICTURES = tuple(ending[1:].encode() for ending in EXTENSIONS)
_ERRORS = {
    "damaged-shard": ("of the shards are damaged", "write them anew; what lies behind the damage cannot be read"),
    "compressed-shard": ("of the shards are compressed: nothing in them can be read by position", ""),
    "odd-member": ("members are links, devices or pipes", "pack the files themselves: tar --dereference"),
    "odd-name": ("members have names that no file should have (`..`, absolute, NUL, too long)", "name them otherwise"),
    "two-pictures": ("samples have two pictures of one key", "a key is the name up to its first dot: one picture each"),
    "listed-twice": ("keys occur more than once in a shard", "give each sample a key of its own"),
    "no-label": ("samples have no label member", "pack one with each picture, or name another ending: data.label"),
    "bad-label": ("labels cannot be read", "a .cls or .txt holds one word or number; of JSON, data.label=json.KEY"),
    "too-large": ("pictures are too large", "the most is 1 GiB"),
}
"""Text and fix of each kind of fault for which training refuses the shards."""


@dataclass(frozen=True, eq=False)
class TarIndex:
    """N samples of some shards, in the order in which they lie there.

    shard_of: int32 [N]. offsets, sizes: int64 [N], of the pictures. label_offsets, label_sizes: int64 [N], of the label
        members, -1 for none. codes: int32 [N], positions in `labels`, -1 where there is none or none was asked for.
    names: uint8 [bytes], of the picture members one after the other; name_ends: int64 [N + 1].
    """

    shards: tuple[Shard, ...]
    shard_of: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    label_offsets: np.ndarray
    label_sizes: np.ndarray
    codes: np.ndarray
    names: np.ndarray
    name_ends: np.ndarray
    labels: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.shard_of)

    def member(self, row: int) -> bytes:
        return self.names[self.name_ends[row] : self.name_ends[row + 1]].tobytes()


_ARRAYS = {"shard_of": "i", "offsets": "q", "sizes": "q", "label_offsets": "q", "label_sizes": "q", "codes": "i"}
_DTYPES = {"i": np.int32, "q": np.int64}


# --- made, kept, found again -----------------------------------------------------------------------------------------


def index_of(storage: Storage, shards: Sequence[Shard], label: str) -> TarIndex:
    """Return the index of some shards, from the cache if it is there and still right. Raises DataError if a shard
    cannot be read; what is wrong inside of it is a finding.

    label: the ending of the label members, as for `read_label`; "json" takes them as they are.
    """
    facts = {"format": _FORMAT, "label": label, "address": storage.address, "shards": [list(shard) for shard in shards]}
    told = json.dumps(facts)
    held = hashlib.sha256(json.dumps([label, storage.address, [shard.name for shard in shards]]).encode())
    path = cache_folder("shards") / f"{held.hexdigest()[:24]}.index"
    if (found := _load(path, told, shards)) is not None:
        return found
    index = _made(storage, shards, label)
    try:
        make_output_folder(path.parent)
        write_atomically(path, _to_bytes(index, told))
    except OutputError as error:
        note = Finding("note", "index-not-kept", f"the index of the shards is made anew each time: {error.what}")
        return replace(index, findings=(*index.findings, note))
    return index


def _to_bytes(index: TarIndex, facts: str) -> bytes:
    arrays = {name: getattr(index, name) for name in (*_ARRAYS, "names", "name_ends")}
    said = {"labels": index.labels, "findings": [asdict(finding) for finding in index.findings]}
    content = safetensors.numpy.save(arrays, {"facts": facts, "said": json.dumps(said)})
    return zlib.crc32(content).to_bytes(4, "little") + content


def _load(path: Path, facts: str, shards: Sequence[Shard]) -> TarIndex | None:
    """The index in a file; None if there is none, if it is damaged, or of shards as they were once."""
    try:
        content = memoryview(read_file(path, MOST_TEXT_BYTES))
        if zlib.crc32(content[4:]) != int.from_bytes(content[:4], "little"):
            return None
        metadata = safetensors_texts(content[4:])
        if metadata["facts"] != facts:
            return None
        arrays, said = safetensors.numpy.load(bytes(content[4:])), json.loads(metadata["said"])
        findings = tuple(Finding(**{**one, "places": tuple(one["places"])}) for one in said["findings"])
        index = TarIndex(tuple(shards), **arrays, labels=tuple(said["labels"]), findings=findings)
        return index if _is_sound(index) else None
    except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError, RecursionError):
        return None


def _is_sound(index: TarIndex) -> bool:
    """Whether an index that somebody else may have written leads nowhere but into its shards."""
    count = len(index.shard_of)
    if any(getattr(index, name).shape != (count,) or getattr(index, name).dtype != _DTYPES[kind]
           for name, kind in _ARRAYS.items()):  # fmt: skip
        return False
    ends = index.name_ends
    if ends.shape != (count + 1,) or ends.dtype != np.int64 or index.names.dtype != np.uint8 or index.names.ndim != 1:
        return False
    if ends[0] != 0 or ends[-1] != len(index.names) or (np.diff(ends) < 0).any():
        return False
    if count and not (index.shard_of.min() >= 0 and index.shard_of.max() < len(index.shards)):
        return False
    limits = np.array([shard.size for shard in index.shards], dtype=np.int64)[index.shard_of]
    inside = (index.offsets >= 0) & (index.sizes >= 0) & (index.sizes <= limits - index.offsets)
    inside &= (index.label_sizes <= limits - index.label_offsets) & (index.label_sizes >= -1)
    return bool((inside & (index.codes >= -1) & (index.codes < max(1, len(index.labels)))).all())


# --- one shard -------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Part:
    """What was found in one shard."""

    shard: str = ""
    arrays: dict[str, "array[int]"] = field(default_factory=lambda: {name: array(k) for name, k in _ARRAYS.items()})
    names: bytearray = field(default_factory=bytearray)
    name_ends: "array[int]" = field(default_factory=lambda: array("q"))
    labels: dict[str, int] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add_fault(self, kind: str, place: bytes | str) -> None:
        self.counts[kind] += 1
        if len(named := self.faults.setdefault(kind, [])) < PLACES:
            text = place if isinstance(place, str) else place[:200].decode(errors="backslashreplace")
            named.append(visible(f"{self.shard}: {text}", one_line=True))


def _made(storage: Storage, shards: Sequence[Shard], label: str) -> TarIndex:
    def scanned(number: int) -> _Part:
        return _scan(storage, shards[number], number, label)

    rows = range(len(shards))
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        parts = pool.map(scanned, rows) if storage.is_remote else map(scanned, rows)
        found = list(progress(parts, "indexing shards", total=len(shards)))
    labels: dict[str, int] = {}
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in _ARRAYS}
    faults = _Part()
    for part in found:
        to_whole = np.array([labels.setdefault(text, len(labels)) for text in part.labels] + [-1], dtype=np.int32)
        for name, kind in _ARRAYS.items():
            values = np.array(part.arrays[name], dtype=_DTYPES[kind])
            arrays[name].append(to_whole[values] if name == "codes" else values)
        for kind, places in part.faults.items():
            faults.faults.setdefault(kind, []).extend(places)
        faults.counts += part.counts
    ends = [np.diff(np.array(part.name_ends, dtype=np.int64), prepend=0) for part in found]
    findings = [_finding(kind, faults.counts[kind], places) for kind, places in faults.faults.items()]
    if len(labels) > MOST_LABELS:
        what = f"there are {len(labels):,} different labels, which are no classes"
        findings.append(Finding("error", "too-many-labels", what, (), "name the member with the class: data.label"))
    return TarIndex(
        tuple(shards),
        **{name: np.concatenate([np.zeros(0, _DTYPES[kind]), *arrays[name]]) for name, kind in _ARRAYS.items()},
        names=np.frombuffer(bytearray().join(part.names for part in found), dtype=np.uint8),
        name_ends=np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *ends]))]).astype(np.int64),
        labels=tuple(labels),
        findings=tuple(findings),
    )


def _finding(kind: str, count: int, places: Sequence[str]) -> Finding:
    if kind == "no-picture":
        what = f"{plural(count, 'sample has', 'samples have')} no picture and {'is' if count == 1 else 'are'} left out"
        return Finding("note", kind, what, tuple(places))
    if kind == "other-members":
        return Finding("note", kind, f"{plural(count, 'member is', 'members are')} not used", tuple(places))
    what, fix = _ERRORS[kind]
    fix = fix or f"unpack each: {places[0].rpartition(': ')[2]}"
    return Finding("error", kind, f"{count:,} {what}", tuple(places), fix)


def _scan(storage: Storage, shard: Shard, number: int, label: str) -> _Part:
    """Read the headers of a shard; what lies behind a damage is left out. Raises DataError if it cannot be read."""
    part, window, is_packed = _Part(shard.name), window_of(storage, shard), shard.name.lower().endswith(COMPRESSED)
    keys = set[int]()  # hashes, 8 bytes of use each, of this shard alone
    try:
        if is_packed:
            raise Damage("compressed-shard", "gzip -d")
        for key, group in groupby(_files(members(window, shard.size), part), itemgetter(0)):
            picture, labelled, code, seen = None, None, -1, set[bytes]()
            for _, ending, member in group:
                if ending in seen:
                    part.add_fault("listed-twice", member.name)
                seen.add(ending)
                if ending in _PICTURES:
                    if picture is not None:
                        part.add_fault("two-pictures", member.name)
                    picture = picture or member
                elif ending == label.partition(".")[0].encode() and labelled is None:
                    labelled = member
                    if label != "json":  # read while it is in the window
                        code = _code(part, window, member, label)
            if hash(key) in keys:
                part.add_fault("listed-twice", key)
            elif picture is None:
                part.add_fault("no-picture", key)
            elif picture.size > MOST_FILE_BYTES:
                part.add_fault("too-large", key)
            else:
                if labelled is None:
                    part.add_fault("no-label", key)
                place = (labelled.offset, labelled.size) if labelled else (-1, -1)
                row = (number, picture.offset, picture.size, *place, code)
                for values, value in zip(part.arrays.values(), row, strict=True):
                    values.append(value)
                part.names += picture.name
                part.name_ends.append(len(part.names))
            keys.add(hash(key))
    except Damage as damage:
        kind, text = damage.args
        if kind == "compressed-shard":
            path = shlex.quote(shard.name)
            text = f"{text} {path}" if is_packed else f"{text}c < {path} > NEW.tar"
        part.add_fault(kind, text)
    return part


def _files(members: Iterator[Member], part: _Part) -> Iterator[tuple[bytes, bytes, Member]]:
    """Key and ending of each file, and the file; what is none, or is badly called, goes to the faults."""
    for member in members:
        name = member.name
        folder, slash, base = name.rpartition(b"/")
        stem, dot, ending = base.partition(b".")
        if member.kind == b"5":  # folders
            continue
        if b"\0" in name or name.startswith(b"/") or len(name) > MOST_NAME or b".." in name.split(b"/"):
            part.add_fault("odd-name", name)
        elif stem and not dot:
            part.add_fault("other-members", name)
        elif stem and member.kind != b"0":
            part.add_fault("odd-member", name)
        elif stem:  # and not hidden
            yield folder + slash + stem, ending.lower(), member


def _code(part: _Part, window: Callable[[int, int], bytes], member: Member, label: str) -> int:
    """The position of a sample's label among those of its shard; -1 if it cannot be read, which is a fault."""
    most = MOST_JSON if label.startswith("json") else MOST_LABEL
    try:
        if member.size > most:
            raise ValueError(f"{member.size:,} bytes, {most:,} are the most")
        text = read_label(window(member.offset, member.size), label)
    except (ValueError, RecursionError) as error:
        name = member.name[:200].decode(errors="backslashreplace")
        part.add_fault("bad-label", f"{name} ({str(error)[:80]})")
        return -1
    if len(part.labels) > MOST_LABELS:
        return 0
    return part.labels.setdefault(text, len(part.labels))


def read_label(content: bytes, label: str) -> str:
    """Return the label that a member holds: `cls` and `txt` are texts, `json.KEY` an entry of a JSON object.

    Raises ValueError for anything but one line of text or a whole number.
    """
    ending, _, key = label.partition(".")
    value: Any = content.decode()
    if ending == "json":
        value = json.loads(value)
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"no object with '{key}'")
        value = value[key]
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(f"'{key}' is neither a text nor a whole number")
    text = str(value).strip()
    if not text or len(text) > MOST_LABEL or "\n" in text or "\0" in text:
        raise ValueError("it is empty" if not text else "it is no single line")
    text.encode()  # raises for half of a surrogate pair
    return text


def window_of(storage: Storage, shard: Shard) -> Callable[[int, int], bytes]:
    """Read parts of a shard, mostly one behind the other: from a window that moves on. Raises DataError."""
    start, held = 0, b""

    def part(offset: int, size: int) -> bytes:
        nonlocal start, held
        if not (start <= offset and offset + size <= start + len(held)):
            start = offset
            held = storage.read(shard, offset, min(max(size, WINDOW), shard.size - offset))
        return held[offset - start : offset - start + size]

    return part
