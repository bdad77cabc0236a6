"""CSV files, read leniently: what is wrong is listed. The one reader of all tables and lists.

Taken: RFC 4180 in UTF-8, or in UTF-16 with a byte order mark (Excel's "Unicode Text"); delimiters comma, semicolon,
tab and |; lines that end in LF, CRLF or CR; a header line; an index column without a name, as pandas writes it, which
is left out. Refused by name: other encodings, NUL characters, Excel's `sep=` line, columns without a name or of one
name, rows of another length.
"""

import csv
import io
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mlcli.data.decode import is_image_name
from mlcli.data.finding import Finding
from mlcli.data.sources.columns import read_number, without
from mlcli.data.splits import SPLITS, named_split
from mlcli.reading import MOST_TEXT_BYTES, read_file, why_absent
from mlcli.schema.explain import closest
from mlcli.text import first_few, from_csv_cell, plural, truncated

DELIMITERS = ",;\t|"
INDICATED = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
"""What the cells of a one-hot column mean."""
OTHER_FILES = {
    b"PK\3\4": "an Excel workbook or another zip archive", b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\x1f\x8b": "a file packed by gzip", b"PAR1": "a Parquet file", b"SQLite": "a database", b"%PDF": "a PDF",
    b'{"': "JSON", b"[{": "JSON", b"<!": "a page of the web", b"<?xml": "XML",
}  # fmt: skip
"""What files begin with that are given for CSV."""


@dataclass(frozen=True, eq=False)
class CsvFile:
    """Content of a CSV file, as far as it could be read.

    header: the columns' names; empty if nothing could be read.
    rows: each with as many cells as the header, without blanks around them.
    lines: int64 [N], the line of the file that each row ends on.
    faults: what is wrong with the file, and with the lines and columns that were left out.
    """

    path: Path
    header: list[str]
    rows: list[list[str]]
    lines: np.ndarray
    faults: tuple[Finding, ...] = ()
    delimiter: str = ","

    def column(self, name: str) -> list[str]:
        position = self.header.index(name)
        return [row[position] for row in self.rows]

    def only(self, chosen: np.ndarray) -> "CsvFile":
        """The rows at these positions."""
        return replace(self, rows=[self.rows[row] for row in chosen.tolist()], lines=self.lines[chosen])

    def without(self, values: Sequence[str | float]) -> "CsvFile":
        """The file with nothing in its cells that are one of these values."""
        if not values or not self.rows:
            return self
        cells, width = without([cell for row in self.rows for cell in row], values), len(self.header)
        return replace(self, rows=[cells[first : first + width] for first in range(0, len(cells), width)])

    def indicators(self, among: Sequence[str], of: str = "") -> tuple[str, ...]:
        """Return columns that together are one label, in the file's order: in each row one of them is 1, the others 0.

        among: the columns that can be. of: one that has to be one of them; where it is empty, any may. Columns next to
        each other are taken first. Empty if there are none.
        """
        ones: dict[str, np.ndarray] = {}
        for name in [of, *among] if of else among:
            cells = self.column(name)
            if {cell.lower() for cell in set(cells)} <= INDICATED.keys() and len(set(cells)) > 1:
                ones[name] = np.array([INDICATED[cell.lower()] for cell in cells], dtype=bool)
            elif name == of:
                return ()
        for first in [of] if of else [*ones]:
            found, union, place = [first], ones[first], among.index(first)
            for name in sorted(ones, key=lambda name: abs(among.index(name) - place)):
                if name != first and not (union & ones[name]).any():
                    found, union = [*found, name], union | ones[name]
            if union.all():
                return tuple(name for name in among if name in found)
        return ()

    def one_label(self, names: Sequence[str]) -> "tuple[CsvFile, str]":
        """Return the file with one column in place of these indicators, and its name; its cells are the names of those
        that are 1, and empty where not exactly one is. For one name, or where some are not there, it stays as it is.
        """
        if len(names) == 1 or not set(names) <= set(self.header):
            return self, names[0]
        positions = [self.header.index(name) for name in names]
        rest = [position for position in range(len(self.header)) if position not in positions]
        rows, label = [], ", ".join(names)
        for row in self.rows:
            chosen = [name for name, at in zip(names, positions, strict=True) if INDICATED.get(row[at].lower())]
            rows.append([*(row[at] for at in rest), chosen[0] if len(chosen) == 1 else ""])
        return replace(self, header=[*(self.header[at] for at in rest), label], rows=rows), label

    def absent(self, names: Iterable[str], key: str) -> list[Finding]:
        """An error for each column that a config key names and the file does not have."""
        found = []
        for name in names:
            if name not in self.header and self.header:
                near = closest(name, self.header)
                what = f"there is no column '{name}'" + (f" (did you mean '{near}'?)" if near else "")
                what = f"{what} among the file's columns"
                found.append(Finding("error", "missing-column", what, tuple(self.header), f"set {key} to one of them"))
        return found

    def places(self, rows: Iterable[int], texts: Sequence[str] = ()) -> tuple[str, ...]:
        """`line 7: text` for each of these rows; texts: of all rows."""
        return tuple(f"line {self.lines[row]}" + (f": {texts[row]}" if texts else "") for row in rows)

    def split_of(self, column: str) -> tuple[np.ndarray, list[Finding]]:
        """The split of each row, as `named_split` reads it, int8 [N], positions in SPLITS.

        Train where the column holds something else, which is an error.
        """
        found = self.absent([column], "data.split_column")
        if column not in self.header:
            return np.zeros(len(self.rows), dtype=np.int8), found
        words = self.column(column)
        code = {word: SPLITS.index(split) if (split := named_split(word)) else -1 for word in set(words)}
        split_of = np.array([code[word] for word in words], dtype=np.int8)
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
    """Read a file with a header line, and , ; tab or | between cells.

    Cells are stripped of blanks around them; empty lines are left out. Never raises: faults are a missing or empty
    file, text that is not UTF-8 or not CSV, columns without a name or of the same name (they are numbered instead), and
    rows of another length than the header (they are left out).
    """
    text, faults = _read_text(path)
    if found := re.match(r'"?sep=.?"?\r?\n', text):
        what = f"line 1 is '{found[0].strip()}', which is meant for Excel, not the columns' names"
        faults.append(Finding("error", "csv", what, (), "delete the first line; the delimiter is found without it"))
        text = "\n" + text[found.end() :]
    if "\0" in text:
        what = f"line {text.count(chr(10), 0, text.index(chr(0))) + 1} holds a NUL character, which no text has"
        faults.append(Finding("error", "csv", what, (), "save the file as UTF-8; it may be UTF-16, or damaged"))
    # The one that most of the first lines have as many of as the header has; of several its commonest.
    first = [line for line in re.sub(r'"[^"]*"', "", text[:10_000]).splitlines() if line.strip()][:21] or [""]
    counts = {one: [line.count(one) for line in first] for one in DELIMITERS}
    there = [one for one in DELIMITERS if counts[one][0]] or [","]
    delimiter = max(there, key=lambda one: (counts[one].count(counts[one][0]), counts[one][0]))
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
            fix = 'correct the line; a quote within quotes is written twice: ""'
            faults += [Finding("error", "csv", what, (), fix)] if strict else []
    if len(rows) < 2 and not faults:
        what = "there is a header but no rows" if rows else "the file is empty"
        faults.append(Finding("error", "csv", what, (), "give a CSV file with a header line and one sample a row"))
    width = max((place for place, name in enumerate(rows[0], 1) if name), default=0) if rows else 0
    if any(len(row) > width for row in rows[:2]) and not any(any(row[width:]) for row in rows):
        what = "a delimiter ends each line: the empty cells behind it are left out"
        faults.append(Finding("note", "csv", what))
        rows = [row[:width] for row in rows]
    header = _header(rows[0], rows[1:51], faults) if rows else []
    width = len(header)
    ragged = [number for number, row in enumerate(rows) if len(row) != width]
    if ragged and rows[0][0].startswith("#"):
        what = f"line {lines[0]} begins with #, and comments are not read"
        faults.append(Finding("error", "csv", what, (), "delete the lines above the header"))
    if ragged:
        what = f"rows of another length than the header's {width} cells"
        places = tuple(f"line {lines[number]}: {len(rows[number])} cells" for number in ragged)
        fix = "correct these lines; text that holds the delimiter or a line break must stand in double quotes"
        faults.append(Finding("error", "csv", what, places, fix))
        kept = [number for number in range(len(rows)) if len(rows[number]) == width]
        rows, lines = [rows[number] for number in kept], [lines[number] for number in kept]
    if header and header[0] == "column 1" and all(rows[0][1:]) and is_index([row[0] for row in rows[1:]]):
        faults = [fault for fault in faults if fault.kind != "nameless"]
        what = "the first column has no name and numbers the rows: it is not used"
        faults.append(Finding("note", "index-column", what))
        header, rows = header[1:], [row[1:] for row in rows]
    return CsvFile(path, header, rows[1:], np.array(lines[1:], dtype=np.int64), tuple(faults), delimiter)


def is_index(cells: list[str]) -> bool:
    """Whether these are whole numbers, each once, as pandas' index of rows in any order."""
    return len(set(cells)) == len(cells) > 1 and all(cell.isascii() and cell.isdigit() for cell in cells)


def _read_text(path: Path) -> tuple[str, list[Finding]]:
    """The file's text, and what was wrong with it as text."""
    try:
        data = read_file(path, MOST_TEXT_BYTES)
    except FileNotFoundError:
        fix = "; ".join(filter(None, [why_absent(path), "set data.file to a CSV file"]))
        return "", [Finding("error", "csv", "there is no such file", (), fix)]
    except IsADirectoryError:
        return "", [Finding("error", "csv", "this is a folder, not a CSV file", (), "set data.file to a file")]
    except OSError as error:
        return "", [Finding("error", "csv", f"cannot read the file: {error.strerror}")]
    if kind := next((kind for start, kind in OTHER_FILES.items() if data.startswith(start)), ""):
        return "", [Finding("error", "csv", f"this is {kind}, not CSV", (), "open it, and save it as CSV (UTF-8)")]
    encoding, called = ("utf-16", "UTF-16") if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else ("utf-8-sig", "UTF-8")
    try:
        return data.decode(encoding), []
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        fault = Finding("error", "csv", f"line {line} is not {called} text", (), "save the file as UTF-8")
        return data.decode(encoding, errors="replace"), [fault]


def _header(cells: list[str], rows: list[list[str]], faults: list[Finding]) -> list[str]:
    """The columns' names, each once: `column 3` for one that has none or another's."""
    nameless = tuple(f"number {number}" for number, name in enumerate(cells, 1) if not name)
    if nameless:
        fix = "name them; pandas leaves its index without one: DataFrame.to_csv(..., index=False)"
        faults.append(Finding("error", "nameless", "columns without a name in the header line", nameless, fix))
    repeated = tuple(sorted({name for name in cells if name and cells.count(name) > 1}))
    if repeated:
        faults.append(Finding("error", "csv", "columns of the same name", repeated, "rename all but one"))
    if _is_sample(cells, rows):
        kind = "pictures" if any(map(is_image_name, cells)) else "numbers"
        what = f"the first line holds {kind} ({first_few(cells)}), not the columns' names"
        fix = "put a header line on top, or in its place if these are pandas' numbers of columns"
        faults.append(Finding("error", "csv", what, (), fix))
    parts = [row[0].split() for row in (cells, *rows) if len(row) == 1]
    has_numbers = len(parts) > 1 and not np.isnan([read_number(part) for part in parts[1]]).all()
    if has_numbers and len(parts[0]) > 1 and len({*map(len, parts)}) == 1:
        what = f"columns are separated by blanks: '{truncated(cells[0], 40)}'"
        faults.append(Finding("error", "csv", what, (), "write commas, semicolons or tabs between them"))
    return [
        f"column {number}" if not name or name in cells[: number - 1] else name for number, name in enumerate(cells, 1)
    ]


def _is_sample(names: list[str], rows: list[list[str]]) -> bool:
    """Whether the first line is a sample and no header: all names are numbers, or all those of the columns of numbers
    are, and neither years nor equally far apart; or one is a picture's, as are the cells below."""
    numbers = [read_number(name) for name in names]
    if not np.isnan(numbers).any():
        return True
    rows = [row for row in rows if len(row) == len(names)]
    below = [[read_number(row[place]) for row in rows] for place in range(len(names))]
    numeric = [place for place, values in enumerate(below) if rows and not np.isnan(values).any()]
    given = np.array([numbers[place] for place in numeric])
    pictures = any(is_image_name(name) and rows and is_image_name(rows[0][at]) for at, name in enumerate(names))
    if not len(given) or np.isnan(given).any():
        return pictures
    steps, whole = np.diff(given), bool((given == np.round(given)).all())
    years = len(given) > 1 and bool((steps > 0).all()) and 1800 <= given.min() <= given.max() <= 2100
    counts = len(given) == 1 or bool((steps == 1).all()) or (len(steps) > 1 and np.ptp(steps) == 0 < steps[0])
    return pictures or not (whole and (years or counts))
