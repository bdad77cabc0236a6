"""Tar shards written, for `mlcli data convert`: the bytes of picture files as they are, each with its label beside it.

The same data give the same bytes: sorted as training reads them, without times and owners. Names are those of the
files, but for what a key of WebDataset cannot hold: dots before the ending, and folders above.
"""

import io
import itertools
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from mlcli.data import places
from mlcli.data.decode import ENDINGS, EXTENSIONS, opened
from mlcli.data.source import Arrays, ImageFilesSamples, Source
from mlcli.data.sources.shards import CLASSES
from mlcli.data.sources.tar import BLOCK
from mlcli.engine.contract import Samples
from mlcli.errors import ConfigError, DataError
from mlcli.files import Write, fill_atomically, write_atomically
from mlcli.outputs import UNFINISHED, filled_folder
from mlcli.schema.yaml12 import dump
from mlcli.show.terminal import progress
from mlcli.text import plural, size

AT_ONCE = 2**20
"""Bytes that are written in one call."""
SHARD_BYTES, LEAST_BYTES, MOST_BYTES = 256 * 2**20, 2**16, 2**40
"""Of a shard that is written, unless it is said otherwise, and what may be said."""
_OURS = re.compile(r"(train|val|test)-\d{6,}\.tar|\..*\.tmp|\.unfinished|classes\.txt|categories\.json")
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


class ShardEntry(NamedTuple):
    """One sample. path: of the picture below its root; label: what stands beside it, and under which ending."""

    path: bytes
    picture: bytes
    ending: str
    label: bytes


def read_bytes(text: str) -> int:
    """Return the bytes that a size such as 256MB means. Raises ConfigError for anything else, and beyond bounds."""
    match = re.fullmatch(r"(\d{1,12})\s*([kmg]?)i?b?", text.strip().lower())
    number = int(match[1]) * UNITS[match[2]] if match else 0
    if not LEAST_BYTES <= number <= MOST_BYTES:
        what = f"'{text}' is no size of a shard from {size(LEAST_BYTES)} to {size(MOST_BYTES)}"
        raise ConfigError(what, where="--shard-size", fix="--shard-size 256MB")
    return number


def write_shards(
    out: Path, splits: dict[str, tuple[int, Iterator[ShardEntry]]], beside: dict[str, bytes], shard_bytes: int
) -> list[str]:
    """Write samples, and small files beside the shards. Returns lines for people.

    splits: of each the number of samples, and these. Raises OutputError, also if `out` holds anything that is not left
    of an earlier attempt; and what reading the samples raises. What was written is deleted then.
    """
    clear_unfinished(out)
    told = []
    with filled_folder(out):
        for name, content in beside.items():
            write_atomically(out / name, content)
        for split, (count, entries) in splits.items():
            rest, written = iter(progress(entries, f"writing {split}", total=count)), 0
            for number in itertools.count():
                if (first := next(rest, None)) is None:
                    break
                path = out / f"{split}-{number:06}.tar"
                rest = fill_shard(path, itertools.chain([first], rest), shard_bytes)
                written += path.stat().st_size
            told.append(f"{plural(count, 'picture')} of {split} in {plural(number, 'shard')} ({size(written)})")
    return [f"{out}: {', '.join(told)}"]


def refuse_inside(out: Path, root: Path | str) -> None:
    """Raise ConfigError if shards would be written into the folder that is read, and read as data the next time."""
    if isinstance(root, Path) and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(root)):
        raise ConfigError(f"{out} lies in the folder that is read", where=str(root), fix="name a folder beside it")


def clear_unfinished(out: Path) -> None:
    """Delete what an attempt that was ended has left, if there is nothing else in the folder."""
    if os.path.lexists(out / UNFINISHED) and all(_OURS.fullmatch(name) for name in os.listdir(out)):
        for name in sorted(os.listdir(out), key=lambda name: name == UNFINISHED):
            os.unlink(out / name)


def fill_shard(path: Path, entries: Iterator[ShardEntry], most_bytes: int) -> Iterator[ShardEntry]:
    """Write one shard, of one sample at least; return those that are left."""
    left: list[ShardEntry] = []

    def fill(write: Write) -> None:
        keys, total, held = set[bytes](), 0, bytearray()
        for entry in entries:
            key, kind = _key(entry, keys)
            members = [(key + kind, entry.picture), (key + b"." + entry.ending.encode(), entry.label)]
            blocks = [part for name, content in members for part in _member(name, content)]
            needed = sum(map(len, blocks))
            if total and total + needed > most_bytes:
                left.append(entry)
                break
            total += needed
            held += b"".join(blocks)
            if len(held) >= AT_ONCE:
                write(held)
                held = bytearray()
        write(held + bytes(2 * BLOCK))

    fill_atomically(path, fill)
    return itertools.chain(left, entries)


def _key(entry: ShardEntry, taken: set[bytes]) -> tuple[bytes, bytes]:
    """The key of a sample, other than those of its shard, and the ending of its picture, that of its format where the
    name has another or none. Raises DataError for what is no picture then."""
    inside = entry.path.rpartition(b".tar/")[2]  # of a picture that lies in a shard already
    parts = [part for part in inside.split(b"/") if part not in (b"", b".", b"..")]
    stem, kind = os.path.splitext(parts[-1])
    if kind.decode(errors="replace").lower() not in EXTENSIONS:
        with opened(entry.picture, os.fsdecode(entry.path)) as image:
            stem, kind = parts[-1], ENDINGS[image.format or ""][0].encode()
    key = plain = b"/".join([*parts[:-1], stem.replace(b".", b"_")])
    for number in itertools.count(2):
        if key not in taken:
            break
        key = plain + b"-%d" % number
    taken.add(key)
    return key, kind.lower()


def _member(name: bytes, content: bytes) -> tuple[bytes, bytes, bytes]:
    info = tarfile.TarInfo(name.decode(errors="surrogateescape"))
    info.size = len(content)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"), content, bytes(-len(content) % BLOCK)


# --- pictures with a class -------------------------------------------------------------------------------------------


def write_classes(source: Source, out: Path, shard_bytes: int) -> list[str]:
    """Write pictures with a class each, divided as training divides them; files as they are, arrays as PNG.

    Returns lines for people, the last the data section that reads them. Raises ConfigError for tables, DataError for a
    class whose name fits on no line, and as `write_shards`.
    """
    info = source.info
    if info.kind != "image":
        raise ConfigError("only pictures are written as shards, and this is a table", fix="keep it as a CSV file")
    if odd := [name for name in info.class_names if "\n" in name or "\r" in name or not name]:
        raise DataError(f"the class {odd[0]!r} fits on no line of {CLASSES}", fix="rename the class")
    names = "".join(f"{name}\n" for name in info.class_names).encode(errors="surrogateescape")
    splits = {split: (len(part), _entries(part)) for split, part in source.splits.items()}
    told = write_shards(out, splits, {CLASSES: names}, shard_bytes)
    whole = {split: 0 for split in ("val", "test") if split not in splits}  # nothing was held out of training
    train, channels = source.splits["train"], info.input_shape[0]
    kept: dict[str, object] = {} if channels == 3 else {"channels": channels}
    if isinstance(train, ImageFilesSamples) and not train.same_size:
        kept |= {"image_size": [*train.preparation.image_size], "fit": train.preparation.fit}
    return [*told, *section_lines(out, {**kept, **whole})]


def section_lines(out: Path, keys: dict[str, object]) -> list[str]:
    """Lines for people: the data section that reads shards, with some keys."""
    section = {"name": "shards", "root": str(out.absolute()), **keys}
    return ["", "the section for a YAML", *dump({"data": section}).splitlines()]


def _entries(part: Samples) -> Iterator[ShardEntry]:
    for index, label in enumerate(part.targets.tolist()):
        yield ShardEntry(*encoded_picture(part, index), "cls", b"%d" % label)


def encoded_picture(part: Samples, index: int) -> tuple[bytes, bytes]:
    """Path and bytes of a picture's file; of one that lies in memory a name that is made up, and a PNG.

    Raises DataError if it cannot be read.
    """
    if isinstance(part, ImageFilesSamples):
        try:
            return places.path(part.root, part.paths[index]), places.content(part.root, part.paths[index])
        except OSError as error:
            raise DataError(f"cannot read image: {error.strerror}", where=part.name(index)) from error
    assert isinstance(part, Arrays)
    pixels, file = part.inputs[index].numpy(), io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, format="PNG")
    number = index if part.numbers is None else int(part.numbers[index])
    return f"{part.origin}/{number:07}.png".encode(), file.getvalue()
