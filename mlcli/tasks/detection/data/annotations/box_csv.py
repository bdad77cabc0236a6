"""Boxes in CSV files, one a row: reading and writing."""

import csv
import difflib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlcli.data.sources.csv_file import DELIMITERS, SPLIT_WORDS
from mlcli.errors import DataError
from mlcli.tasks.detection.data.annotations.contents import AnnotatedObject, Annotations

COLUMNS = ("filename", "class", "xmin", "ymin", "xmax", "ymax")
"""A row with a name only, and nothing in the others, is a picture without objects."""


def read_box_csv(
    file: Path, *, val_file: Path | None = None, test_file: Path | None = None, root: Path | None = None
) -> Annotations:
    """Read one file, whose column `split` may divide it, or a file for each split.

    root: folder that the names are relative to; the file's own by default. Raises DataError if a file or column is
    missing.
    """
    others = {"val": val_file, "test": test_file}
    given = {split: path for split, path in others.items() if path is not None}
    found = Annotations(str(root or file.parent))
    pictures: dict[tuple[str, str], int] = {}
    for split, path in {"train" if given else "": file, **given}.items():
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
                pictures[key] = found.add_picture(os.path.normpath(cells["filename"]), where, split=named, size=size)
            if not any(cells[column] for column in COLUMNS[1:]):
                continue
            try:
                left, top, right, bottom = (float(cells[column]) for column in COLUMNS[2:])
            except ValueError as error:
                found.add_fault("malformed", str(error), where)
                continue
            found.objects.append(AnnotatedObject(pictures[key], (left, top, right, bottom), cells["class"], where))
    return found


def split_of(cells: dict[str, str], where: str, found: Annotations) -> str | None:
    """The split that a row names, empty if it names none; None, and a fault, for another word."""
    word = cells.get("split", "")
    if word and word.lower() not in SPLIT_WORDS:
        found.add_fault("malformed", f"split must be train, val or test, not '{word}'", where)
        return None
    return SPLIT_WORDS.get(word.lower(), "")


def read_rows(path: Path, columns: tuple[str, ...], found: Annotations) -> Iterator[tuple[dict[str, str], str]]:
    """Rows of a CSV file whose header names at least these columns: cells by column, and file and line.

    Cells are stripped of blanks; spelling and order of the columns are the file's. A row of another length becomes a
    fault. Raises DataError if the file or a column is missing.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read the file: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8 text", where=str(path), fix="save the file as UTF-8") from error
    if not text.strip():
        found.add_fault("empty_file", "the file is empty", str(path))
        return
    bare = re.sub(r'"[^"]*"', "", text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=bare.count))
    header = [cell.strip() for cell in next(reader)]
    for column in columns:
        if column not in header:
            near = difflib.get_close_matches(column, header, n=1)
            raise DataError(
                f"no column '{column}'" + (f" (did you mean '{near[0]}'?)" if near else ""),
                where=f"{path}: columns {', '.join(header[:20])}",
                fix=f"the first line must name the columns {', '.join(columns)}",
            )
    for cells in reader:
        where = f"{path}:{reader.line_num}"
        if len(cells) == len(header):
            yield dict(zip(header, map(str.strip, cells), strict=True)), where
        elif any(cells):
            found.add_fault("malformed", f"{len(cells)} cells, but the header has {len(header)}", where)


def whole_number(text: str | None) -> int:
    """0 where it is missing or makes no sense: the picture's own size is read from its file."""
    return int(text) if text is not None and text.isdigit() else 0


def write_box_csv(annotations: Annotations, out: Path) -> dict[str, Any]:
    """Write boxes.csv beside images, with a row of its own for each picture without objects."""
    with (out / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([COLUMNS[0], "width", "height", *COLUMNS[1:], "split"])
        for split in annotations.splits():
            for picture, objects in annotations.of_split(split):
                for thing in objects:
                    writer.writerow([picture.path, *picture.size, thing.name, *digits(thing.box_xyxy), split])
                if not objects:
                    writer.writerow([picture.path, *picture.size, *[""] * 5, split])
    return {"name": "box_csv", "file": "boxes.csv", "root": "images"}


def digits(box_xyxy: tuple[float, ...]) -> list[str]:
    """Corners with as many digits as a float32 has."""
    return [f"{side:.9g}" for side in box_xyxy]
