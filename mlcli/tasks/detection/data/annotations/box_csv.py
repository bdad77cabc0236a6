"""Boxes in CSV files, one a row."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlcli.data.sources.csv_file import SPLIT_WORDS
from mlcli.tasks.detection.data.annotations.build import build_source
from mlcli.tasks.detection.data.annotations.rows import Row, read_rows
from mlcli.tasks.detection.data.annotations.table import Scribe, Table
from mlcli.tasks.detection.data.source import DetectionSource

if TYPE_CHECKING:
    from mlcli.tasks.detection.data.config import BoxCsv

COLUMNS = ("filename", "class", "xmin", "ymin", "xmax", "ymax")
"""A row with a name only, and nothing in the others, is a picture without objects."""


def box_csv(config: "BoxCsv") -> DetectionSource:
    """Raises DataError for annotations that cannot be learned from."""
    return build_source(config, read_box_csv(config))


def read_box_csv(config: "BoxCsv") -> Table:
    """Raises DataError if a file or column is not there."""
    files = {"val": config.val_file, "test": config.test_file}
    given = {split: path for split, path in files.items() if path is not None}
    scribe = Scribe(str(config.root or config.file.parent))
    pictures: dict[tuple[str, str], int] = {}
    for split, path in {"train" if given else "": config.file, **given}.items():
        _read(path, split, pictures, scribe)
    return scribe.table()


def _read(path: Path, split: str, pictures: dict[tuple[str, str], int], scribe: Scribe) -> None:
    for row in read_rows(path, scribe, COLUMNS):
        cells = row.cells
        where = SPLIT_WORDS.get(cells["split"].lower(), "") if not split and "split" in cells else split
        if not where and cells.get("split") and not split:
            scribe.fault("malformed", f"split must be train, val or test, not '{cells['split']}'", row.where)
            continue
        if not cells["filename"]:
            scribe.fault("malformed", "no filename", row.where)
            continue
        key = (cells["filename"], where)
        if key not in pictures:
            size = (_whole(cells.get("width", "")), _whole(cells.get("height", "")))
            pictures[key] = scribe.picture(os.path.normpath(cells["filename"]), row.where, split=where, size=size)
        if any(cells[column] for column in COLUMNS[1:]):
            _object(pictures[key], row, scribe)


def _object(picture: int, row: Row, scribe: Scribe) -> None:
    try:
        left, top, right, bottom = (float(row.cells[column]) for column in COLUMNS[2:])
    except ValueError as error:
        scribe.fault("malformed", str(error), row.where)
        return
    scribe.object(picture, (left, top, right, bottom), row.cells["class"], row.where)


def _whole(text: str) -> int:
    return int(text) if text.isdigit() else 0
