"""CSV files (RFC 4180, also with other delimiters and a byte order mark), read leniently: what is wrong is listed."""

import csv
import difflib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from mlcli.data.finding import Finding
from mlcli.data.splits import SPLITS
from mlcli.files import MOST_TEXT_BYTES, read_file
from mlcli.text import first_few, from_csv_cell, plural

DELIMITERS = ",;\t|"
SPLIT_WORDS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
MISSING = ("", "na", "n/a", "null", "none", "?")
"""Cells that hold no value, in any case. "nan" is not among them: it is what a failed computation writes."""
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class CsvFile:
    """Content of a CSV file, as far as it could be read.

    header: the columns' names; empty if nothing could be read.
    rows: each with as many cells as the header, without blanks around them.
    lines: int64 [N], the line of the file that each row ends on.
    faults: what is wrong with the file, and with the lines that were left out; errors all of them.
    """

    path: Path
    header: list[str]
    rows: list[list[str]]
    lines: np.ndarray
    faults: tuple[Finding, ...] = ()

    def column(self, name: str) -> list[str]:
        position = self.header.index(name)
        return [row[position] for row in self.rows]

    def only(self, chosen: np.ndarray) -> "CsvFile":
        """The rows at these positions."""
        return replace(self, rows=[self.rows[row] for row in chosen.tolist()], lines=self.lines[chosen])

    def absent(self, names: Iterable[str], key: str) -> list[Finding]:
        """An error for each column that a config key names and the file does not have."""
        found = []
        for name in names:
            if name not in self.header and self.header:
                near = difflib.get_close_matches(name, self.header, n=1)
                what = f"there is no column '{name}'" + (f" (did you mean '{near[0]}'?)" if near else "")
                what = f"{what} among the file's columns"
                found.append(Finding("error", "missing-column", what, tuple(self.header), f"set {key} to one of them"))
        return found

    def places(self, rows: Iterable[int], texts: Sequence[str] = ()) -> tuple[str, ...]:
        """`line 7: text` for each of these rows; texts: of all rows."""
        return tuple(f"line {self.lines[row]}" + (f": {texts[row]}" if texts else "") for row in rows)

    def split_of(self, column: str) -> tuple[np.ndarray, list[Finding]]:
        """The split of each row (train, val, also valid or validation, test), int8 [N], positions in SPLITS.

        Train where the column holds something else, which is an error.
        """
        found = self.absent([column], "data.split_column")
        if column not in self.header:
            return np.zeros(len(self.rows), dtype=np.int8), found
        words = self.column(column)
        code = {word: SPLITS.index(split) for word, split in SPLIT_WORDS.items()}
        split_of = np.array([code.get(word.lower(), -1) for word in words], dtype=np.int8)
        unknown = np.flatnonzero(split_of < 0).tolist()
        if unknown:
            what = f"{plural(len(unknown), 'row has', 'rows have')} neither train, val nor test in column '{column}'"
            places = self.places(unknown, [repr(word) for word in words])
            found.append(Finding("error", "unknown-split", what, places, "correct these cells"))
        if len(split_of) and not (split_of == 0).any():
            what = f"no row has train in column '{column}'"
            found.append(Finding("error", "no-training-rows", what, (), "mark training rows"))
        return np.maximum(split_of, 0), found


def read_csv(path: Path) -> CsvFile:
    """Read a file with a header line; the delimiter is the one of , ; tab | that the header has most of.

    Cells are stripped of blanks around them; empty lines are left out. Never raises: faults are a missing or empty
    file, text that is not UTF-8 or not CSV, columns without a name or of the same name (they are numbered instead), and
    rows of another length than the header (they are left out).
    """
    text, faults = _read_text(path)
    bare = re.sub(r'"[^"]*"', "", text.partition("\n")[0])
    delimiter = max(DELIMITERS, key=bare.count)
    rows: list[list[str]] = []
    lines: list[int] = []
    for strict in (True, False):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)
        rows, lines = [], []
        try:
            for cells in reader:
                if cells and any(cells):
                    rows.append([from_csv_cell(cell.strip()) for cell in cells])
                    lines.append(reader.line_num)
            break
        except csv.Error as error:  # not strict, only a NUL and the like, which ends the file
            what = f"line {reader.line_num} is not CSV: {error}"
            faults += [Finding("error", "csv", what, (), "correct the line")] if strict else []
    if len(rows) < 2 and not faults:
        what = "there is a header but no rows" if rows else "the file is empty"
        faults.append(Finding("error", "csv", what, (), "give a CSV file with a header line and one sample a row"))
    header = _header(rows[0], faults) if rows else []
    width = len(header)
    ragged = [number for number, row in enumerate(rows) if len(row) != width]
    if ragged:
        what = f"rows of another length than the header's {width} cells"
        places = tuple(f"line {lines[number]}: {len(rows[number])} cells" for number in ragged)
        fix = "correct these lines; text that holds the delimiter or a line break must stand in double quotes"
        faults.append(Finding("error", "csv", what, places, fix))
        kept = [number for number in range(len(rows)) if len(rows[number]) == width]
        rows, lines = [rows[number] for number in kept], [lines[number] for number in kept]
    return CsvFile(path, header, rows[1:], np.array(lines[1:], dtype=np.int64), tuple(faults))


def _read_text(path: Path) -> tuple[str, list[Finding]]:
    """The file's text, and what was wrong with it as text."""
    try:
        data = read_file(path, MOST_TEXT_BYTES)
    except FileNotFoundError:
        return "", [Finding("error", "csv", "there is no such file", (), "set data.file to a CSV file")]
    except IsADirectoryError:
        return "", [Finding("error", "csv", "this is a folder, not a CSV file", (), "set data.file to a file")]
    except OSError as error:
        return "", [Finding("error", "csv", f"cannot read the file: {error.strerror}")]
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        fault = Finding("error", "csv", f"line {line} is not UTF-8 text", (), "save the file as UTF-8")
        return data.decode("utf-8-sig", errors="replace"), [fault]


def _header(cells: list[str], faults: list[Finding]) -> list[str]:
    """The columns' names, each once: `column 3` for one that has none or another's."""
    nameless = tuple(f"number {number}" for number, name in enumerate(cells, 1) if not name)
    if nameless:
        fix = "name them; pandas leaves its index without one: DataFrame.to_csv(..., index=False)"
        faults.append(Finding("error", "csv", "columns without a name in the header line", nameless, fix))
    repeated = tuple(sorted({name for name in cells if name and cells.count(name) > 1}))
    if repeated:
        faults.append(Finding("error", "csv", "columns of the same name", repeated, "rename all but one"))
    if not np.isnan([read_number(name) for name in cells]).any():
        what = f"the first line holds numbers ({first_few(cells)}), not the columns' names"
        faults.append(Finding("error", "csv", what, (), "put a header line on top"))
    return [
        f"column {number}" if not name or name in cells[: number - 1] else name for number, name in enumerate(cells, 1)
    ]


# --- columns --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a table.

    cells: as written, without blanks around them. missing: bool [N], where they hold no value.
    numbers: float64 [N], NaN for gaps and for what is no number that float32 can hold; None for categories.
    free_text: nearly every row has a text of its own, from which nothing can be learned.
    """

    name: str
    cells: list[str]
    missing: np.ndarray
    numbers: np.ndarray | None
    free_text: bool = False

    @property
    def wrong(self) -> np.ndarray:
        """Rows whose cell should be a finite number and is not: int64 [W]."""
        if self.numbers is None:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero(np.isnan(self.numbers) & ~self.missing)

    @cached_property
    def texts(self) -> np.ndarray:
        """The cells as an array of texts, empty where there is no value."""
        return np.where(self.missing, "", np.array(self.cells))

    @cached_property
    def codes(self) -> np.ndarray:
        """int64 [N]: equal values have equal codes; a gap is a value of its own. 1 and 1.0 are equal."""
        values: np.ndarray = self.texts if self.numbers is None else self.numbers
        return np.unique(values, return_inverse=True)[1].astype(np.int64).ravel()


def read_column(name: str, cells: list[str], *, numeric: bool = True) -> Column:
    """numeric: whether to read the cells as numbers."""
    missing = np.array([cell.lower() in MISSING for cell in cells], dtype=bool)
    if not numeric:
        return Column(name, cells, missing, None)
    numbers = np.array([read_number(cell) for cell in cells], dtype=np.float64)
    numbers[~(np.abs(numbers) <= FLOAT32_MAX)] = np.nan
    return Column(name, cells, missing, numbers)


def read_number(text: str) -> float:
    """Return a number written in ASCII digits; NaN for anything else, as `1_2` and other scripts' digits are."""
    if not text.isascii() or "_" in text:
        return np.nan
    try:
        return float(text)
    except ValueError:
        return np.nan
