"""`mlcli data check` of annotated pictures: faults of annotations, oddities of pictures, and what is in them."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from mlcli.data.batches import Part
from mlcli.data.check.examination import Examination, Sheet, refused
from mlcli.data.check.examine import examine_pictures
from mlcli.data.check.labels import label_findings
from mlcli.data.check.splits import balance_findings
from mlcli.data.finding import Finding, Severity
from mlcli.data.randomness import sample_keys
from mlcli.data.scan import Collection, FilePictures, HeldPictures, scan
from mlcli.data.source import Arrays
from mlcli.data.sources.listing import UNLABELLED
from mlcli.data.splits import SPLITS, told_alike
from mlcli.errors import DataError
from mlcli.show.boxes import Thing, colour_of, drawn
from mlcli.show.drawing import Tile, sheet
from mlcli.tasks.detection.data.annotations.contents import AnnotationFault, Annotations
from mlcli.tasks.detection.data.annotations.faults import KINDS, CheckedAnnotations
from mlcli.tasks.detection.data.augment.random_tile import RandomTiles, learned_sides, tile_of, told_of_tiles
from mlcli.tasks.detection.data.augmentations import DetectionAugmentation, RandomTile
from mlcli.tasks.detection.data.build import build_source, checked_source, read_annotations
from mlcli.tasks.detection.data.config import AnnotationFiles, DetectionData, Scenes
from mlcli.tasks.detection.data.feed import CutTargets
from mlcli.tasks.detection.data.records import DetectionSource
from mlcli.tasks.detection.data.strides import USUAL_STRIDES, misfits
from mlcli.text import plural

SHOWN, PANEL = 24, 240
"""Pictures on the sheet of objects, and pixels of each one's longer side."""
BY_PIXELS = {"unreadable": "unreadable", "shared_image": "duplicates-across-splits"}
"""Faults that looking at the pixels finds as well, and more of, and the kinds of these findings."""


def examine(
    config: DetectionData,
    strides: Sequence[int] = USUAL_STRIDES,
    augment: Sequence[DetectionAugmentation] = (),
    min_visibility: float = 0.3,
) -> Examination:
    """Look at everything in one pass; what would stop training is a finding among the others.

    strides: of the model's maps in pixels. augment, min_visibility: as in the YAML; random tiles are looked at.

    Raises ConfigError for a data.yaml that is no YAML, and nothing else.
    """
    examination = Examination()
    if isinstance(config, Scenes):
        scenes = build_source(config)
        _examine_pictures(examination, _collection(scenes))
        _examine_objects(examination, scenes, strides, augment, min_visibility)
        return examination
    try:
        checked = CheckedAnnotations(read_annotations(config))
    except DataError as error:
        examination.findings.append(refused(error))
        return examination
    source, refusal = _cleaned(config, checked)
    collection = _listed(checked.annotations) if source is None else _collection(source)
    if collection is not None:
        _examine_pictures(examination, collection)
    errors = {finding.kind for finding in examination.findings if finding.severity == "error"} if not source else set()
    told = [fault for fault in checked.faults if BY_PIXELS.get(fault.kind) not in errors]
    examination.findings[:0] = _fault_findings(config, told)
    # Where training refuses, look at what would be left if faults were fixed.
    left = source or _cleaned(config.model_copy(update={"on_invalid": "fix"}), checked)[0]
    if left is not None:
        _examine_objects(examination, left, strides, augment, min_visibility)
    notes = checked.annotations.notes if source is None else source.notes
    said = told_alike(checked.class_names)  # a finding of its own
    examination.findings += [Finding("note", "training-says", note) for note in notes if note not in said]
    examination.refuses = refusal is not None
    if refusal is not None and not (config.on_invalid == "error" and checked.faults):  # those are told one by one
        examination.findings.append(refusal)
    return examination


def _cleaned(config: AnnotationFiles, checked: CheckedAnnotations) -> tuple[DetectionSource | None, Finding | None]:
    """The data set that training would get, or the error it would stop with."""
    try:
        return checked_source(config, checked), None
    except DataError as error:
        return None, refused(error)


def _fault_findings(config: AnnotationFiles, faults: list[AnnotationFault]) -> list[Finding]:
    """One finding of each kind."""
    kinds: dict[str, list[AnnotationFault]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, []).append(fault)
    severity: Severity = "error" if config.on_invalid == "error" else "warning"
    found = []
    for kind, members in sorted(kinds.items(), key=lambda item: -len(item[1])):
        what = f"{KINDS[kind]}: {len(members):,}"
        fixable = sum(fault.fixable for fault in members)
        fix = f"data.on_invalid=fix fixes {fixable:,} and leaves out {len(members) - fixable:,}"
        fix = fix if config.on_invalid != "drop" else "data.on_invalid=drop leaves them out"
        places = tuple(f"{fault.where}: {fault.message}" for fault in members)
        found.append(Finding(severity, kind.replace("_", "-"), what, places, f"correct them; {fix}"))
    return found


# --- pictures --------------------------------------------------------------------------------------------------------


def _examine_pictures(examination: Examination, collection: Collection) -> None:
    examine_pictures(examination, collection, scan(collection.pictures), None)


def _collection(source: DetectionSource) -> Collection:
    every = list(source.splits.values())
    held = [records.images for records in every if isinstance(records.images, Arrays)]
    paths = np.concatenate([records.paths for records in every])
    counts = [len(records) for records in every]
    split_of = np.repeat(np.arange(len(counts), dtype=np.int8), counts)
    pictures = HeldPictures(held) if held else FilePictures(every[0].root, paths)
    return _unlabelled(pictures, split_of, tuple(source.splits))


def _listed(annotations: Annotations) -> Collection | None:
    """The pictures that the annotations name, when training would not take them; those named twice once."""
    _, first = np.unique(annotations.addresses, return_index=True)
    if not len(first):
        return None
    first.sort()
    named = [annotations.pictures[position].split or "train" for position in first.tolist()]
    splits = tuple(split for split in SPLITS if split in named)
    split_of = np.array([splits.index(split) for split in named], dtype=np.int8)
    return _unlabelled(FilePictures(annotations.place, annotations.addresses[first]), split_of, splits)


def _unlabelled(pictures: FilePictures | HeldPictures, split_of: np.ndarray, splits: tuple[str, ...]) -> Collection:
    return Collection(pictures, np.full(len(split_of), UNLABELLED, dtype=np.int64), (), split_of, splits)


# --- objects ---------------------------------------------------------------------------------------------------------


def _examine_objects(
    examination: Examination,
    source: DetectionSource,
    strides: Sequence[int],
    augment: Sequence[DetectionAugmentation],
    min_visibility: float,
) -> None:
    """Report the annotated objects: how many of each class, how large, and some pictures with their boxes."""
    names = source.info.class_names
    table = {split: np.bincount(records.labels - 1, minlength=len(names)) for split, records in source.splits.items()}
    total = sum(int(counts.sum()) for counts in table.values())
    each = total / max(1, sum(map(len, source.splits.values())))
    counts = " · ".join(f"{int(count.sum()):,} {split}" for split, count in table.items())
    line = f"{counts} · {plural(len(names), 'class', 'classes')} · {each:.1f} in a picture"
    examination.facts.append(("objects", line))
    one_class = len(names) == 1  # fine for a detector, which separates objects from background
    found = balance_findings(table, names, "objects", one_label=False)
    found += label_findings(names, np.sum(list(table.values()), axis=0))
    examination.findings += [finding for finding in found if not (one_class and finding.kind == "one-class")]
    examination.findings += _sizes(source, strides, augment)
    examination.sheets.append(_sheet(source))
    if random_tile := tile_of(augment):
        line, warnings = told_of_tiles(random_tile[0], source.splits["train"], min_visibility)
        examination.facts.append(("training", line))
        examination.findings += [Finding("warning", "tiles", text) for text in warnings]
        examination.sheets.append(_tiles_sheet(source, *random_tile, min_visibility))
    examination.figures["objects"] = {
        name: {split: int(count[label]) for split, count in table.items()} for label, name in enumerate(names)
    }


def _sizes(source: DetectionSource, strides: Sequence[int], augment: Sequence[DetectionAugmentation]) -> list[Finding]:
    """Objects of a size that the model's maps do not fit."""
    records = source.splits.values()
    sides = np.concatenate([learned_sides(augment, one) for one in records])
    names = [one.name(picture) for one in records for picture in one.picture_of[~one.ignored].tolist()]
    height, width = source.info.input_shape[1:]
    seen, found = "tiles" if tile_of(augment) else "pictures", []
    for misfit in misfits(sides, strides, in_tiles=seen == "tiles"):
        places = tuple(f"{names[row]} ({sides[row, 0]:.0f}x{sides[row, 1]:.0f})" for row in misfit.rows.tolist())
        what = f"once {seen} are {width}x{height}, {misfit.what}"
        found.append(Finding("warning", f"objects-{misfit.kind}", what, places, misfit.fix))
    return found


def _sheet(source: DetectionSource) -> Sheet:
    """Pictures drawn at random from a fixed seed, with their boxes and names."""
    records = source.splits["train"]
    rows = np.sort(np.random.default_rng(0).permutation(len(records))[:SHOWN])
    tiles = []
    for row in rows.tolist():
        things = [
            Thing(box, colour_of(label), source.info.class_names[label - 1])
            for box, label in zip(records.boxes_of(row).tolist(), records.labels_of(row).tolist(), strict=True)
        ]
        name = records.name(row).rpartition("/")[2]
        tiles.append(Tile(drawn(records.original(row), things, PANEL), (name,)))
    note = f"{len(rows)} of {len(records):,} training pictures with what is annotated in them"
    return Sheet("objects", note, sheet("Objects", note, tiles, columns=6, side=PANEL))


def _tiles_sheet(source: DetectionSource, config: RandomTile, stream: int, min_visibility: float) -> Sheet:
    """Tiles as the first epoch would draw them, of pictures drawn at random, with what is learned from in them."""
    records, names = source.splits["train"], source.info.class_names
    tiles, device = RandomTiles(config, stream, records), torch.device("cpu")
    rows = torch.from_numpy(np.resize(np.random.default_rng(0).permutation(len(records)), SHOWN))
    part = Part(rows, sample_keys(0, 0, torch.arange(SHOWN)))
    most = max(1, int(tiles.room_for_objects(min_visibility).max()))
    targets, _ = CutTargets(records, tiles, min_visibility, most, device, masks=False)(part)
    shown = []
    for row, pixels in enumerate(tiles(part)):
        real = targets.valid[row]
        things = [
            Thing(box, colour_of(label), names[label - 1])
            for box, label in zip(
                targets.boxes_xyxy[row][real].tolist(), targets.labels[row][real].tolist(), strict=True
            )
        ]
        name = records.name(int(rows[row])).rpartition("/")[2]
        shown.append(Tile(drawn(Image.fromarray(pixels.permute(1, 2, 0).numpy()), things, PANEL), (name,)))
    note = f"{SHOWN} tiles as training would draw them, with the objects that are learned from"
    return Sheet("tiles", note, sheet("Tiles", note, shown, columns=6, side=PANEL))
