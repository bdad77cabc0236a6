"""The examination of annotated pictures: faults of the annotations, oddities of the pictures, and what is in them."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from mlcli.data.check.balance import balance_findings
from mlcli.data.check.collection import UNLABELLED, Collection, FilePictures, HeldPictures, Pictures
from mlcli.data.check.doctor import refused
from mlcli.data.check.finding import Examination, Finding, Severity, Sheet
from mlcli.data.check.pictures import examine_pictures
from mlcli.data.check.scan import scan
from mlcli.data.source import Arrays
from mlcli.errors import DataError
from mlcli.show.boxes import Thing, colour_of, drawn
from mlcli.show.drawing import Tile, sheet
from mlcli.tasks.detection.data.annotations.faults import Fault, faults_of, read_table
from mlcli.tasks.detection.data.source import DetectionSource
from mlcli.text import plural, share

if TYPE_CHECKING:
    from mlcli.tasks.detection.data.config import DetectionData
    from mlcli.tasks.detection.data.records import Records

SMALL = 8.0
"""Pixels of a model's input below which an object is smaller than one cell of the finest grid, of stride 8."""
MANY_SMALL = 0.05
SHOWN, PANEL = 24, 240
"""Pictures on the sheet of objects, and pixels of each one's longer side."""
BY_PIXELS = {"unreadable", "duplicate_image", "shared_image"}
"""Faults that looking at the pixels finds as well, and more of."""
KINDS = {
    "size_mismatch": "pictures have another size than their annotation says",
    "exif_rotation": "pictures are annotated as stored, but their EXIF orientation turns them",
    "duplicate_image": "pictures occur twice in a split, byte by byte",
    "shared_image": "pictures occur in two splits, byte by byte",
    "unreadable": "pictures cannot be read",
    "not_finite": "boxes have a corner that is no finite number",
    "not_relative": "boxes are given in more than the whole picture",
    "swapped_corners": "boxes have their corners swapped",
    "degenerate_box": "boxes have no width or no height",
    "outside": "boxes are outside of their picture",
    "partly_outside": "boxes stick out of their picture",
    "unknown_class": "objects are of a class that is not known",
    "duplicate_box": "objects are annotated twice",
    "bad_mask": "masks make no sense",
}


def examine(config: "DetectionData") -> Examination:
    """Never raises: what is wrong becomes a finding."""
    examination = Examination()
    source, refusal = _as_training_would(config)
    collection = _collection(source) if source is not None else _listed(config)
    examination.findings += _faults(config, by_pixels=source is None and collection is not None)
    if collection is not None:
        examine_pictures(examination, collection, scan(collection.pictures), None)
    mended = source or _mended(config)
    if mended is not None:
        _objects(examination, mended)
    if source is not None:
        examination.findings += [Finding("note", "training-says", note) for note in source.notes]
    if refusal is not None:
        examination.findings.append(refusal)
    return examination


def _mended(config: "DetectionData") -> DetectionSource | None:
    """What is left of it if faults are mended or left out, so that the objects can be looked at all the same."""
    try:
        return config.model_copy(update={"on_invalid": "fix"}).build()
    except DataError:
        return None


def _as_training_would(config: "DetectionData") -> tuple[DetectionSource | None, Finding | None]:
    try:
        return config.build(), None
    except DataError as error:
        return None, refused(error)


def _faults(config: "DetectionData", *, by_pixels: bool) -> list[Finding]:
    """One finding of each kind. by_pixels: the pictures themselves are looked at as well."""
    try:
        faults = faults_of(config)
    except DataError:  # nothing can be listed: the refusal says why
        return []
    kinds: dict[str, list[Fault]] = {}
    for fault in faults:
        if not (by_pixels and fault.kind in BY_PIXELS):
            kinds.setdefault(fault.kind, []).append(fault)
    severity: Severity = "error" if config.on_invalid == "error" else "warning"
    found = []
    for kind, members in sorted(kinds.items(), key=lambda item: -len(item[1])):
        what = f"{len(members):,} {KINDS.get(kind, kind.replace('_', ' '))}"
        fixable = sum(fault.fixable for fault in members)
        fix = f"mends {fixable:,} and leaves out {len(members) - fixable:,}"
        fix = f"data.on_invalid=fix {fix}" if config.on_invalid != "drop" else "data.on_invalid=drop leaves them out"
        fix = f"correct them; {fix}"
        places = tuple(f"{fault.where}: {fault.message}" for fault in members)
        found.append(Finding(severity, kind.replace("_", "-"), what, places, fix))
    return found


def _collection(source: DetectionSource) -> Collection:
    parts = [records.images for records in source.splits.values()]
    held = [part for part in parts if isinstance(part, Arrays)]
    pictures: Pictures
    if held:
        pictures = HeldPictures(held)
    else:
        root = next(iter(source.splits.values())).root
        pictures = FilePictures(root, np.concatenate([records.paths for records in source.splits.values()]))
    counts = [len(records) for records in source.splits.values()]
    return _unlabelled(pictures, np.repeat(np.arange(len(counts), dtype=np.int8), counts), tuple(source.splits))


def _listed(config: "DetectionData") -> Collection | None:
    """The pictures that the annotations name, when training would not take them."""
    try:
        table = read_table(config)
    except DataError:
        return None
    if not len(table):
        return None
    first = {path: row for row, path in reversed(list(enumerate(table.paths)))}  # named twice is read once
    rows = sorted(first.values())
    named = [table.splits[row] or "train" for row in rows]
    splits = tuple(split for split in ("train", "val", "test") if split in named)
    paths = np.array([table.paths[row].encode(errors="surrogateescape") for row in rows], dtype=bytes)
    split_of = np.array([splits.index(split) for split in named], dtype=np.int8)
    return _unlabelled(FilePictures(table.root, paths), split_of, splits)


def _unlabelled(pictures: Pictures, split_of: np.ndarray, splits: tuple[str, ...]) -> Collection:
    return Collection(pictures, np.full(len(split_of), UNLABELLED, dtype=np.int64), (), split_of, splits)


# --- objects ---------------------------------------------------------------------------------------------------------


def _objects(examination: Examination, source: DetectionSource) -> None:
    """What is annotated: how many of each class, how large, and some pictures with their boxes."""
    names = source.info.class_names
    table = {split: np.bincount(records.labels - 1, minlength=len(names)) for split, records in source.splits.items()}
    total = sum(int(counts.sum()) for counts in table.values())
    each = total / max(1, sum(map(len, source.splits.values())))
    counts = " · ".join(f"{int(count.sum()):,} {split}" for split, count in table.items())
    line = f"{counts} · {plural(len(names), 'class', 'classes')} · {each:.1f} in a picture"
    examination.facts.append(("objects", line))
    one_class = len(names) == 1  # fine for a detector: it tells objects from background
    found = balance_findings(table, names, "objects", one_label=False)
    examination.findings += [finding for finding in found if not (one_class and finding.kind == "one-class")]
    examination.findings += _sizes(source, total)
    examination.sheets.append(_sheet(source))
    examination.figures["objects"] = {
        name: {split: int(count[label]) for split, count in table.items()} for label, name in enumerate(names)
    }


def _sizes(source: DetectionSource, total: int) -> list[Finding]:
    """Objects that become too small for the model's input to show."""
    small, places = 0, []
    for records in source.splits.values():
        scale, _ = records.placements(torch.arange(len(records)))
        sides = records.boxes_xyxy[:, 2:] - records.boxes_xyxy[:, :2]
        sides = sides * scale.numpy()[records.picture_of]
        tiny = np.flatnonzero((sides.min(axis=1) < SMALL) & ~records.ignored)
        small += len(tiny)
        for row in tiny.tolist():
            picture = int(records.picture_of[row])
            places.append(f"{records.name(picture)} ({sides[row, 0]:.0f}x{sides[row, 1]:.0f})")
    if small <= MANY_SMALL * total:
        return []
    height, width = source.info.input_shape[1:]
    what = (f"{plural(small, 'object')} ({share(small, total)}) narrower than {SMALL:g} pixels once pictures are "
            f"{width}x{height}: hardly to be found")  # fmt: skip
    return [Finding("warning", "objects-small", what, tuple(places), "a larger data.image_size")]


def _sheet(source: DetectionSource) -> Sheet:
    """Pictures drawn at random from a fixed seed, with their boxes and names."""
    records = source.splits["train"]
    rows = np.sort(np.random.default_rng(0).permutation(len(records))[:SHOWN])
    tiles = [Tile(_drawn(records, row, source.info.class_names), (records.name(row).rpartition("/")[2],))
             for row in rows.tolist()]  # fmt: skip
    note = f"{len(rows)} of {len(records):,} training pictures with what is annotated in them"
    return Sheet("objects", note, sheet("Objects", note, tiles, columns=6, side=PANEL))


def _drawn(records: "Records", row: int, class_names: tuple[str, ...]):
    things = [
        Thing(box, colour_of(label), class_names[label - 1])
        for box, label in zip(records.boxes_of(row).tolist(), records.labels_of(row).tolist(), strict=True)
    ]
    return drawn(records.original(row), things, PANEL)
