"""A CSV file that lists image files and their labels: which there are, and what is wrong with the list."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlcli.data.decode import is_image_name
from mlcli.data.finding import Finding
from mlcli.data.sources.columns import MISSING
from mlcli.data.sources.csv_file import CsvFile, read_csv
from mlcli.data.sources.listing import UNLABELLED, Listing, nothing
from mlcli.reading import why_absent
from mlcli.schema.yaml12 import as_list
from mlcli.text import first_few, plural


def read_image_csv(
    file: Path,
    *,
    root: Path | None = None,
    path_column: str = "path",
    label_column: str | Sequence[str] = "label",
    split_column: str | None = None,
    val: float = 0.15,
    test: float = 0.15,
) -> Listing:
    """Images that a CSV file lists; those that are not there or listed before are left out. Never raises.

    root: the folder that paths are relative to; None for the CSV file's own.
    label_column: of one-hot labels all columns.
    split_column: train, val or test for each row; without it, the shares `val` and `test` are to be held out.
    """
    table = read_csv(file)
    findings = [*table.faults, *table.absent([path_column], "data.path_column")]
    label_columns = [label_column] if isinstance(label_column, str) else [*label_column]
    one_hot = _one_of_several(table, label_columns, [path_column, split_column])
    findings += one_hot or table.absent(label_columns, "data.label_column")
    table, label = table.one_label(label_columns)
    if not {path_column, label} <= set(table.header):
        return nothing(file, findings)
    folder = os.fspath(root or file.parent)
    paths = table.column(path_column)
    if any("\\" in path and not os.path.lexists(os.path.join(folder, path)) for path in paths):
        paths = [path.replace("\\", "/") for path in paths]  # written on Windows
    paths = _with_endings(paths, folder)
    labels, unlabelled = _labels(table, label, paths)
    kept, left_out = _there_once(table, paths, labels, folder)
    findings += [*unlabelled, *left_out]
    split_of = np.zeros(len(paths), dtype=np.int8)
    if split_column is not None:
        split_of, problems = table.split_of(split_column)
        findings += problems
    class_names = tuple(sorted({label for label in labels if label}))
    position = {name: number for number, name in enumerate(class_names)}
    listing = Listing(
        str(file),
        folder,
        class_names,
        np.array([os.fsencode(path) for path in paths], dtype=bytes),
        np.array([position.get(label, UNLABELLED) for label in labels], dtype=np.int64),
        split_of,
        {} if split_column else {"val": val, "test": test},
        tuple(findings),
    )
    return listing.only(np.flatnonzero(kept))


def _one_of_several(table: CsvFile, label_columns: Sequence[str], others: Sequence[str | None]) -> list[Finding]:
    """Return a finding if the one column of labels is, or should be, several columns that together are one label."""
    if len(label_columns) > 1:
        return []
    one_of = label_columns[0] if label_columns[0] in table.header else ""
    indicators = table.indicators([name for name in table.header if name not in others], one_of)
    if not indicators:
        return []
    what = f"{len(indicators)} columns together are one label: in each row one of them is 1"
    what += f"; only '{one_of}' is learned" if one_of else ""
    fix = f"{as_list('data.label_column', indicators)} to learn all"
    return [Finding("warning" if one_of else "error", "one-hot-labels", what, indicators, fix)]


def _labels(table: CsvFile, column: str, paths: Sequence[str]) -> tuple[list[str], list[Finding]]:
    """Return the label of each row, empty where there is none, which is an error."""
    labels = table.column(column)
    unlabelled = [row for row, label in enumerate(labels) if label.lower() in MISSING]
    if not unlabelled:
        return labels, []
    words = sorted({repr(labels[row]) for row in unlabelled} - {"''"})
    what = f"{plural(len(unlabelled), 'row has', 'rows have')} no label in column '{column}'"
    fix = "fill these cells, or remove the lines"
    fix += f"; if {first_few(words)} is a class, call it otherwise" if words else ""
    found = Finding("error", "no-label", what, table.places(unlabelled, paths), fix)
    return ["" if label.lower() in MISSING else label for label in labels], [found]


def _there_once(
    table: CsvFile, paths: list[str], labels: Sequence[str], folder: str
) -> tuple[np.ndarray, list[Finding]]:
    """Return whether the image of each row is there and was not listed before, bool [N]; all else is an error."""
    kept, found = np.array([os.path.isfile(os.path.join(folder, path)) for path in paths], dtype=bool), []
    if absent := np.flatnonzero(~kept).tolist():
        what = f"{len(absent):,} of {plural(len(paths), 'image')} are not in {folder}"
        fix = "correct the paths, or set data.root to the folder they are relative to"
        fix = why_absent(Path(folder, paths[absent[0]])) or fix
        found.append(Finding("error", "missing-image", what, table.places(absent, paths), fix))
    first: dict[str, int] = {}
    plain = [*map(os.path.normpath, paths)]
    if again := [row for row, path in enumerate(plain) if first.setdefault(path, row) != row]:
        what = f"{plural(len(again), 'row lists', 'rows list')} an image once more"
        if differing := sum(labels[row] != labels[first[plain[row]]] for row in again):
            what += f", {differing:,} of them with another label"
        places = table.places(again, paths)
        found.append(Finding("error", "listed-twice", what, places, "keep one line for each image"))
        kept[again] = False
    return kept, found


def picture_folder(cells: Sequence[str], folder: Path, least: int) -> Path | None:
    """Return the folder that at least so many of these, or all of fewer, are paths of images in, with or without their
    endings: this one, or one in it; None if there is none."""
    for root in (folder, *sorted(filter(Path.is_dir, folder.iterdir()))):
        there = _with_endings([cell.replace("\\", "/") for cell in cells], os.fspath(root))
        if sum(is_image_name(path) and (root / path).is_file() for path in there) >= min(least, len(cells)):
            return root
    return None


def _with_endings(paths: list[str], folder: str) -> list[str]:
    """Paths of images, with the ending of the one image of that name where the file itself is not there."""
    stems: dict[str, dict[str, list[str]]] = {}
    whole = []
    for path in paths:
        place, name = os.path.split(path)
        if name and not is_image_name(name):
            if place not in stems:
                stems[place] = {}
                with contextlib.suppress(OSError):
                    for entry in filter(is_image_name, os.listdir(os.path.join(folder, place))):
                        stems[place].setdefault(os.path.splitext(entry)[0], []).append(entry)
            if len(named := stems[place].get(name, [])) == 1 and not os.path.lexists(os.path.join(folder, path)):
                path = os.path.join(place, named[0])
        whole.append(path)
    return whole
