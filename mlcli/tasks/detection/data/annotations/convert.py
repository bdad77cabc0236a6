"""Conversion between annotation formats, for `mlcli data convert`: annotations are checked, pictures copied."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlcli.data import places
from mlcli.data.decode import read_size
from mlcli.data.sources.shard_writer import (
    SHARD_BYTES,
    ShardEntry,
    clear_unfinished,
    encoded_picture,
    refuse_inside,
    section_lines,
    write_shards,
)
from mlcli.errors import ConfigError, DataError
from mlcli.outputs import filled_folder, refuse_filled
from mlcli.schema.yaml12 import dump
from mlcli.tasks.detection.data.annotations.box_csv import write_box_csv
from mlcli.tasks.detection.data.annotations.coco import write_coco, written_object
from mlcli.tasks.detection.data.annotations.contents import AnnotatedObject, Annotations
from mlcli.tasks.detection.data.annotations.faults import CheckedAnnotations
from mlcli.tasks.detection.data.annotations.shards import CATEGORIES
from mlcli.tasks.detection.data.annotations.voc import write_voc
from mlcli.tasks.detection.data.annotations.yolo_txt import write_yolo_txt
from mlcli.tasks.detection.data.build import build_source, given_splits, read_annotations
from mlcli.tasks.detection.data.config import DetectionData, Scenes
from mlcli.tasks.detection.data.records import Records

SHARDS = "shards"
WITH_IDS = ("coco", SHARDS)
"""Sources whose pictures have ids in the files; others number them as they are read."""
WRITERS: dict[str, tuple[Callable[[Annotations, Path], dict[str, Any]], str]] = {
    "voc": (write_voc, "JPEGImages"),
    "coco": (write_coco, "images"),
    "yolo_txt": (write_yolo_txt, "images/{split}"),
    "csv": (write_box_csv, "images"),
}
"""For each format the function that writes annotations and returns the data section that reads them, and the folder of
pictures."""

Thing = tuple[tuple[float, float, float, float], str]
"""Corners of a box in pixels of the upright picture, and the name of its class."""


def convert(config: DetectionData, format: str, out: Path, shard_bytes: int | None = None) -> list[str]:
    """Write a data set in another format, with copies of its pictures and the splits that its files name.

    Args:
        config: the data section of a YAML; its `on_invalid` says what happens to faulty annotations.
        format: voc, coco, yolo_txt, csv or shards.
        out: a folder that does not exist yet, or is empty.
        shard_bytes: the most that a shard has.

    Returns lines for people: what was written, what the format cannot express, and the data section that reads it.
    Raises ConfigError for another format, DataError as reading does, OutputError if `out` cannot be written to.
    """
    if format not in (*WRITERS, SHARDS):
        raise ConfigError(f"unknown format '{format}'", where="--to", fix=" or ".join((*WRITERS, SHARDS)))
    if format == SHARDS:
        clear_unfinished(out)
        refuse_inside(out, getattr(config, "root", None) or "")
    refuse_filled(out)
    if isinstance(config, Scenes):
        source = build_source(config)
        splits, class_names, notes = source.splits, source.info.class_names, list(source.notes)
        category_ids = tuple(range(1, len(class_names) + 1))
    else:
        checked = CheckedAnnotations(read_annotations(config))
        splits, notes = given_splits(config, checked)
        class_names, category_ids = checked.class_names, checked.category_ids
    if format == SHARDS:
        return [*_as_shards(config, splits, class_names, category_ids, out, shard_bytes or SHARD_BYTES), *notes]
    names = _file_names({split: _paths(split, records) for split, records in splits.items()})
    annotations = _annotations(splits, names, class_names, category_ids)

    def save(split: str, index: int, path: Path) -> None:
        records = splits[split]
        if len(records.paths):
            path.write_bytes(encoded_picture(records.images, index)[1])
        else:
            records.original(index).save(path)

    first, *section = _written(annotations, names, format, out, save)
    return [first, *notes, *_lost(splits, category_ids, format, config.name in WITH_IDS), *section]


def _as_shards(
    config: DetectionData,
    splits: dict[str, Records],
    class_names: tuple[str, ...],
    category_ids: tuple[int, ...],
    out: Path,
    shard_bytes: int,
) -> list[str]:
    number_of = dict(zip(class_names, category_ids, strict=True))

    def entries(split: str, records: Records) -> Iterator[ShardEntry]:
        names = [os.fsdecode(places.path(records.root, address)) for address in records.paths] or [""] * len(records)
        annotations = _annotations({split: records}, {split: names}, class_names, category_ids)
        for index, (picture, things) in enumerate(annotations.of_split(split)):
            told = {
                "id": picture.id,
                "width": picture.size[0],
                "height": picture.size[1],
                "annotations": [written_object(thing, number_of[thing.name]) for thing in things],
            }
            yield ShardEntry(*encoded_picture(records.images, index), "json", json.dumps(told).encode())

    categories = [{"id": number, "name": name} for name, number in number_of.items()]
    parts = {split: (len(records), entries(split, records)) for split, records in splits.items()}
    told = write_shards(out, parts, {CATEGORIES: json.dumps(categories).encode()}, shard_bytes)
    size = config.image_size if isinstance(config.image_size, int) else [*config.image_size]
    return [*told, *section_lines(out, {"image_size": size, "fit": config.fit, "normalize": config.normalize})]


def write_answers(
    answers: Sequence[tuple[Path, Sequence[Thing]]],
    class_names: tuple[str, ...],
    category_ids: tuple[int, ...],
    format: str,
    out: Path,
) -> list[str]:
    """Write what a model found in pictures as a data set with copies of these: first labels for a person to correct.

    answers: a picture's file, and the objects found in it.
    format, out, lines that are returned, errors: as of `convert`. Raises DataError also if a picture cannot be read.
    """
    if format not in WRITERS:
        raise ConfigError(f"unknown format '{format}'", where="--to", fix=" or ".join(WRITERS))
    refuse_filled(out)
    paths = [path for path, _ in answers]
    names = _file_names({"train": paths})
    annotations = Annotations("", class_names=class_names, category_ids=category_ids)
    for (path, things), name in zip(answers, names["train"], strict=True):
        picture = annotations.add_picture(name, str(path), split="train", size=read_size(path))
        for box_xyxy, label in things:
            if box_xyxy[0] < box_xyxy[2] and box_xyxy[1] < box_xyxy[3]:
                area = (box_xyxy[2] - box_xyxy[0]) * (box_xyxy[3] - box_xyxy[1])
                annotations.objects.append(AnnotatedObject(picture, box_xyxy, label, str(path), area=area))
    return _written(annotations, names, format, out, lambda _, index, path: shutil.copyfile(paths[index], path))


def _written(
    annotations: Annotations,
    names: dict[str, list[str]],
    format: str,
    out: Path,
    save: Callable[[str, int, Path], object],
) -> list[str]:
    """Write annotations and pictures; `save` writes that of a split and position to a path. Returns lines for people:
    what was written, and the section that reads it."""
    write, folder = WRITERS[format]
    with filled_folder(out):
        for split, listed in names.items():
            pictures = out / folder.format(split=split)
            pictures.mkdir(parents=True, exist_ok=True)
            for index, name in enumerate(listed):
                save(split, index, pictures / name)
        section = write(annotations, out)
    boxes = Counter(annotations.pictures[thing.picture].split for thing in annotations.objects)
    counts = [f"{len(listed):,} pictures and {boxes[split]:,} boxes of {split}" for split, listed in names.items()]
    told = ["", "to be read, from a YAML next to its files, by the section", *dump({"data": section}).splitlines()]
    return [f"{out}: {', '.join(counts)} as {format}", *told]


def _annotations(
    splits: dict[str, Records],
    names: dict[str, list[str]],
    class_names: tuple[str, ...],
    category_ids: tuple[int, ...],
) -> Annotations:
    """The annotations to write; paths are the names that the copies are given."""
    result = Annotations("", class_names=class_names, category_ids=category_ids)
    for split, records in splits.items():
        for index, name in enumerate(names[split]):
            width, height = records.sizes[index].tolist()
            picture = result.add_picture(name, "", split=split, size=(width, height), id=int(records.ids[index]))
            for t in range(*records.offsets[index : index + 2].tolist()):
                thing = AnnotatedObject(
                    picture,
                    tuple(records.boxes_xyxy[t].tolist()),
                    class_names[records.labels[t] - 1],
                    "",
                    crowd=bool(records.crowd[t]),
                    difficult=bool(records.difficult[t]),
                    area=float(records.area[t]),
                    segmentation=records.segmentations[t] if records.segmentations else None,
                )
                result.objects.append(thing)
    return result


def _paths(split: str, records: Records) -> list[Path]:
    """The files of a split; made up for pictures in memory."""
    files = [Path(os.fsdecode(places.path(records.root, address))) for address in records.paths]
    return files or [Path(f"{split}-{number:05}.png") for number in range(1, len(records) + 1)]


def _file_names(paths: dict[str, list[Path]]) -> dict[str, list[str]]:
    """For each split names without folders, all different up to the extension; where they are not, folders become part
    of the name."""
    stems = Counter(path.stem for listed in paths.values() for path in listed)

    def name_of(path: Path) -> str:
        parts = [part for part in path.parts if part not in ("..", path.anchor)]
        return path.name if stems[path.stem] == 1 else "__".join(parts)

    names = {split: [name_of(path) for path in listed] for split, listed in paths.items()}
    taken = Counter(Path(name).stem for listed in names.values() for name in listed)
    twice = [name for listed in names.values() for name in listed if taken[Path(name).stem] > 1]
    if twice:
        raise DataError(f"pictures of the same name: {', '.join(twice[:5])}", fix="rename them")
    return names


def _lost(splits: dict[str, Records], category_ids: tuple[int, ...], format: str, with_ids: bool) -> list[str]:
    """Lines about what the format cannot express. with_ids: whether pictures have ids in the data set itself."""
    every = list(splits.values())
    own_ids = category_ids != tuple(range(1, len(category_ids) + 1))
    facts = {
        "masks": sum(mask is not None for records in every for mask in records.segmentations or ()),
        "marks of crowds": sum(int(records.crowd.sum()) for records in every),
        "marks of difficult objects": sum(int(records.difficult.sum()) for records in every),
        "ids of pictures": with_ids
        * sum(int((records.ids != np.arange(1, len(records) + 1)).sum()) for records in every),
        "ids of classes": len(category_ids) if own_ids else 0,
    }
    kept = {"coco": set(facts), "voc": {"marks of difficult objects"}}.get(format, set())
    return [
        f"lost, as {format} cannot express it: {count:,} {what}"
        for what, count in facts.items()
        if count and what not in kept
    ]
