"""From one annotation format to another, for `mlcli data convert`: pictures are copied, annotations judged first."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlcli.errors import ConfigError, DataError, OutputError
from mlcli.schema.yaml12 import dump
from mlcli.tasks.detection.data.annotations.build import annotated
from mlcli.tasks.detection.data.annotations.faults import read_table
from mlcli.tasks.detection.data.annotations.write import Sheets, write_box_csv, write_coco, write_voc, write_yolo_txt
from mlcli.tasks.detection.data.records import Records

if TYPE_CHECKING:
    from mlcli.tasks.detection.data.config import DetectionData

WRITERS: dict[str, tuple[Callable[[Sheets, Path], dict[str, Any]], str]] = {
    "voc": (write_voc, "JPEGImages"),
    "coco": (write_coco, "images"),
    "yolo_txt": (write_yolo_txt, "images/{split}"),
    "csv": (write_box_csv, "images"),
}
"""For each format what writes it, and the folder its pictures lie in."""


def convert(config: "DetectionData", format: str, out: Path) -> list[str]:
    """Write a data set in another format, with copies of its pictures and the splits that its files name.

    Args:
        config: the data section of a YAML; its `on_invalid` says what becomes of faulty annotations.
        format: voc, coco, yolo_txt or csv.
        out: a folder that is not there yet, or empty.

    Returns lines for people: what was written, what the format cannot say, and the data section that reads it.
    Raises ConfigError for another format, DataError as reading does, OutputError if `out` cannot be written to.
    """
    if format not in WRITERS:
        raise ConfigError(f"unknown format '{format}'", where="mlcli data convert", fix=" or ".join(WRITERS))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError("the folder is not empty", where=str(out), fix="name a folder that is not there yet")
    sheets, notes = _sheets(config)
    write, folder = WRITERS[format]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for split, records in sheets.splits.items():
            _copy(records, sheets.names[split], out / folder.format(split=split))
        section = write(sheets, out)
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror}", where=str(error.filename or out)) from error
    counts = [f"{len(r):,} pictures and {len(r.labels):,} boxes of {split}" for split, r in sheets.splits.items()]
    lines = [f"{out}: {', '.join(counts)} as {format}", *notes, *_lost(sheets, format)]
    return [*lines, "", "to be read, beside the folder's files, by the section", *dump({"data": section}).splitlines()]


def _sheets(config: "DetectionData") -> tuple[Sheets, tuple[str, ...]]:
    if config.name == "scenes":
        source = config.build()
        splits, class_names, notes = source.splits, source.info.class_names, source.notes
        category_ids = tuple(range(1, len(class_names) + 1))
    else:
        found = annotated(config, read_table(config))
        splits, class_names, notes, category_ids = found.splits, found.class_names, found.notes, found.category_ids
    return Sheets(splits, _file_names(splits), class_names, category_ids), notes


def _file_names(splits: dict[str, Records]) -> dict[str, list[str]]:
    """Names without folders, all different up to the extension; folders become part of names that are not."""
    paths = {split: [_path(records, i, split) for i in range(len(records))] for split, records in splits.items()}
    stems = Counter(path.stem for listed in paths.values() for path in listed)
    names = {
        split: [path.name if stems[path.stem] == 1 else "__".join(_folders(path)) for path in listed]
        for split, listed in paths.items()
    }
    taken = Counter(Path(name).stem for listed in names.values() for name in listed)
    twice = [name for listed in names.values() for name in listed if taken[Path(name).stem] > 1]
    if twice:
        raise DataError(f"pictures of the same name: {', '.join(twice[:5])}", fix="rename them")
    return names


def _folders(path: Path) -> list[str]:
    return [part for part in path.parts if part not in ("..", path.anchor)]


def _path(records: Records, index: int, split: str) -> Path:
    """Relative to the root; pictures in memory are given one."""
    if not len(records.paths):
        return Path(f"{split}-{index + 1:05}.png")
    return Path(records.paths[index].decode(errors="surrogateescape"))


def _copy(records: Records, names: list[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        if len(records.paths):
            shutil.copyfile(records.name(index), folder / name)
        else:
            records.original(index).save(folder / name)


def _lost(sheets: Sheets, format: str) -> list[str]:
    """What the format has no words for."""
    every = list(sheets.splits.values())
    facts = {
        "masks": sum(mask is not None for records in every for mask in records.segmentations or ()),
        "marks of crowds": sum(int(records.crowd.sum()) for records in every),
        "marks of difficult objects": sum(int(records.difficult.sum()) for records in every),
        "ids of pictures": sum(int((records.ids != np.arange(1, len(records) + 1)).sum()) for records in every),
        "ids of classes": 0
        if sheets.category_ids == tuple(range(1, len(sheets.category_ids) + 1))
        else len(sheets.category_ids),
    }
    said = {"coco": set(facts), "voc": {"marks of difficult objects"}}.get(format, set())
    return [
        f"lost, as {format} cannot say it: {count:,} {what}"
        for what, count in facts.items()
        if count and what not in said
    ]
