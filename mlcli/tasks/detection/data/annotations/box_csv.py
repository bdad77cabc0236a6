"""Boxes in CSV files, one a row: reading and writing."""

import csv
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlcli.data.finding import refuse
from mlcli.data.sources.columns import MISSING, read_number
from mlcli.data.sources.csv_file import read_csv
from mlcli.data.splits import named_split
from mlcli.errors import DataError
from mlcli.tasks.detection.data.annotations.contents import AnnotatedObject, Annotations
from mlcli.text import csv_cell

COLUMNS = ("filename", "class", "xmin", "ymin", "xmax", "ymax")
"""A row with a name only, and nothing in the others, is a picture without objects."""


def read_box_csv(
    file: Path, *, val_file: Path | None = None, test_file: Path | None = None, root: Path | None = None
) -> Annotations:
    """Read one file, whose column `split` may divide it, or a file for each split.

    Takes the tables of Roboflow ("Tensorflow Object Detection"), of TensorFlow's and Raccoon's scripts and of whatever
    writes these columns, in any order and with others beside them; commas, semicolons, tabs; corners may be fractions.
    Not the tables without a header (keras-retinanet), of VIA, VoTT and Open Images: the header must be renamed first.

    root: folder that the names are relative to; each file's own by default. Raises DataError if a file or column is
    missing.
    """
    others = {"val": val_file, "test": test_file}
    given = {split: path for split, path in others.items() if path is not None}
    found = Annotations(str(root or file.parent))
    pictures: dict[tuple[str, str], int] = {}
    for split, path in {"train" if given else "": file, **given}.items():
        folder = "" if root else os.path.relpath(path.parent, file.parent)
        for cells, where in read_rows(path, COLUMNS, found):
            named = split or split_of(cells, where, found)
            if named is None:
                continue
            if not cells["filename"]:
                found.add_fault("malformed", "no filename", where)
                continue
            key = (cells["filename"], named)
            if key not in pictures:
                size = (whole_number(cells.get("width")), whole_number(cells.get("height")))
                pictures[key] = found.add_picture(
                    os.path.normpath(os.path.join(folder, cells["filename"])), where, split=named, size=size
                )
            if not any(cells[column] for column in COLUMNS[1:]):
                continue
            try:
                left, top, right, bottom = (corner(cells[column]) for column in COLUMNS[2:])
            except ValueError as error:
                found.add_fault("malformed", str(error), where)
                continue
            name = "" if cells["class"].lower() in MISSING else cells["class"]
            found.objects.append(AnnotatedObject(pictures[key], (left, top, right, bottom), name, where))
    return found


def split_of(cells: dict[str, str], where: str, found: Annotations) -> str | None:
    """The split that a row names, empty if it names none; None, and a fault, for another word."""
    word = cells.get("split", "")
    if word and not named_split(word):
        found.add_fault("malformed", f"split must be train, val or test, not '{word}'", where)
        return None
    return named_split(word)


def read_rows(path: Path, columns: tuple[str, ...], found: Annotations) -> Iterator[tuple[dict[str, str], str]]:
    """Rows of a CSV file whose header names at least these columns: cells by column, and file and line.

    Rows that cannot be read become faults. Raises DataError if the file or a column is missing.
    """
    file = read_csv(path)
    if not file.header:
        refuse(file.faults, str(path))
    for fault in file.faults:
        if not fault.places:
            found.add_fault("malformed", fault.text, str(path))
        for place in fault.places:
            line, _, what = place.partition(": ")
            if line.startswith("line "):  # others are columns without a name, which are not looked at here
                found.add_fault("malformed", f"{what}, but the header has {len(file.header)}", f"{path}:{line[5:]}")
    twice = [
        fault for fault in file.faults if fault.text == "columns of the same name" and {*fault.places} & {*columns}
    ]
    refuse(twice, str(path))
    missing = file.absent(columns, "the header")
    if missing:
        fix = f"the first line must name the columns {', '.join(columns)}"
        raise DataError(missing[0].text, where=f"{path}: columns {', '.join(file.header[:20])}", fix=fix)
    for cells, line in zip(file.rows, file.lines.tolist(), strict=True):
        yield dict(zip(file.header, cells, strict=True)), f"{path}:{line}"


def corner(text: str) -> float:
    """A side of a box. Raises ValueError for what is no decimal number."""
    if math.isnan(value := read_number(text)) and text.lower().lstrip("+-") != "nan":
        raise ValueError(f"'{text[:20]}' is not a number")
    return value


def whole_number(text: str | None) -> int:
    """0 where it is missing or makes no sense: the picture's own size is read from its file."""
    value = read_number(text or "")
    return int(value) if 0 < value < 2**31 and value.is_integer() else 0


def write_box_csv(annotations: Annotations, out: Path) -> dict[str, Any]:
    """Write boxes.csv next to images, with a row of its own for each picture without objects."""
    with (out / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([COLUMNS[0], "width", "height", *COLUMNS[1:], "split"])
        for split in annotations.splits():
            for picture, objects in annotations.of_split(split):
                for thing in objects:
                    names = csv_cell(picture.path), *picture.size, csv_cell(thing.name)
                    writer.writerow([*names, *digits(thing.box_xyxy), split])
                if not objects:
                    writer.writerow([csv_cell(picture.path), *picture.size, *[""] * 5, split])
    return {"name": "box_csv", "file": "boxes.csv", "root": "images"}


def digits(box_xyxy: tuple[float, ...]) -> list[str]:
    """Corners with as many digits as a float32 has."""
    return [f"{side:.9g}" for side in box_xyxy]
