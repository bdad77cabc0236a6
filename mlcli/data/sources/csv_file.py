"""CSV files (RFC 4180; other delimiters and a byte order mark may pass), checked before anything is made of them."""

import csv
import difflib
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlcli.errors import DataError
from mlcli.text import first_few

DELIMITERS = ",;\t|"
SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, eq=False)
class CsvFile:
    """header: the columns' names. rows: each with as many cells as the header. lines: the line each row ends on."""

    path: Path
    header: list[str]
    rows: list[list[str]]
    lines: np.ndarray

    def column(self, name: str) -> list[str]:
        position = self.header.index(name)
        return [row[position] for row in self.rows]

    def require(self, names: Iterable[str], key: str) -> None:
        """Raise DataError unless all columns named by a config key exist."""
        for name in names:
            if name not in self.header:
                near = difflib.get_close_matches(name, self.header, n=1)
                raise DataError(
                    f"no column '{name}'" + (f" (did you mean '{near[0]}'?)" if near else ""),
                    where=f"{key}, columns of {self.path}: {', '.join(self.header[:20])}",
                    fix=f"set {key} to a column's name",
                )

    def refuse(self, what: str, faults: list[tuple[int, str]], fix: str) -> None:
        """Raise DataError if there are faults, each a row and a text: all in one message, the first five with lines."""
        if faults:
            listed = first_few([f"line {self.lines[row]}{': ' if text else ''}{text}" for row, text in faults])
            raise DataError(f"{what}: {listed}", where=str(self.path), fix=fix)

    def split_indices(self, column: str) -> dict[str, np.ndarray]:
        """Rows of each split as a column says: train, val (also valid, validation) or test."""
        self.require([column], "data.split_column")
        words = [SPLIT_WORDS.get(cell.lower(), "") for cell in self.column(column)]
        cells = self.column(column)
        unknown = [(row, repr(cells[row])) for row, word in enumerate(words) if not word]
        self.refuse(f"column '{column}' must say train, val or test", unknown, "correct these cells")
        found = {split: np.flatnonzero([word == split for word in words]) for split in ("train", "val", "test")}
        if not len(found["train"]):
            raise DataError(f"no row says train in column '{column}'", where=str(self.path), fix="mark training rows")
        return {split: rows for split, rows in found.items() if len(rows)}


def read_csv(path: Path) -> CsvFile:
    """Read a file with a header line; the delimiter is the one of , ; tab | that the header has most of.

    Cells are stripped of blanks around them; empty lines are left out. Raises DataError for a missing or empty file,
    text that is not UTF-8, columns without a name or of the same name, and rows of another length than the header.
    """
    text = _text(path)
    first_line = text.partition("\n")[0]
    bare = re.sub(r'"[^"]*"', "", first_line)
    delimiter = max(DELIMITERS, key=bare.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, lines = [], []
    try:
        for cells in reader:
            if cells and any(cells):
                rows.append([cell.strip() for cell in cells])
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(
            f"line {reader.line_num} is not CSV: {error}", where=str(path), fix="correct the line"
        ) from error
    if len(rows) < 2:
        what = "there is a header but no rows" if rows else "the file is empty"
        raise DataError(what, where=str(path), fix="give a CSV file with a header line and one sample a row")
    header = rows.pop(0)
    _check_header(path, header)
    file = CsvFile(path, header, rows, np.array(lines[1:]))
    ragged = [(number, f"{len(row)} cells") for number, row in enumerate(rows) if len(row) != len(header)]
    fix = "correct these lines; text that holds the delimiter or a line break must stand in double quotes"
    file.refuse(f"rows of another length than the header's {len(header)} cells", ragged, fix)
    return file


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError("there is no such file", where=str(path), fix="set data.file to a CSV file") from error
    except IsADirectoryError as error:
        raise DataError("this is a folder, not a CSV file", where=str(path), fix="set data.file to a file") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"line {line} is not UTF-8 text", where=str(path), fix="save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"cannot read the file: {error.strerror}", where=str(path)) from error


def _check_header(path: Path, header: list[str]) -> None:
    nameless = [str(number) for number, name in enumerate(header, 1) if not name]
    if nameless:
        raise DataError(
            f"columns without a name in the header line: number {first_few(nameless)}",
            where=str(path),
            fix="name them; pandas leaves its index without one: DataFrame.to_csv(..., index=False)",
        )
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(f"columns of the same name: {first_few(repeated)}", where=str(path), fix="rename all but one")
    if all(_is_number(name) for name in header):
        raise DataError(
            f"the first line holds numbers ({first_few(header)}), not the columns' names",
            where=str(path),
            fix="put a header line on top",
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
