"""A CSV file read leniently: what `sources.csv_file` stops at becomes a finding, and the other lines are read."""

import contextlib
import csv
import difflib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlcli.data.check.finding import Finding
from mlcli.data.sources.csv_file import DELIMITERS, SPLIT_WORDS, read_csv
from mlcli.errors import DataError
from mlcli.text import plural


@dataclass(frozen=True, eq=False)
class Cells:
    """header and rows of stripped cells, the line each row ends on, and what was wrong with the other lines."""

    path: Path
    header: list[str]
    rows: list[list[str]]
    lines: np.ndarray
    findings: tuple[Finding, ...] = ()

    def column(self, name: str) -> list[str]:
        position = self.header.index(name)
        return [row[position] for row in self.rows]

    def has(self, keys: dict[str, str], findings: list[Finding]) -> bool:
        """Whether the columns named by config keys exist; those that do not are added to the findings."""
        absent = {key: name for key, name in keys.items() if name not in self.header}
        for key, name in absent.items() if self.header else ():
            near = difflib.get_close_matches(name, self.header, n=1)
            what = f"there is no column '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")
            findings.append(Finding("error", "missing-column", what, tuple(self.header), f"set {key} to a column"))
        return not absent

    def places(self, rows: Sequence[int], texts: Sequence[str] = ()) -> tuple[str, ...]:
        """`line 7: text` for each of these rows."""
        return tuple(f"line {self.lines[row]}" + (f": {texts[row]}" if texts else "") for row in rows)


def read_cells(path: Path) -> Cells:
    """Never raises: a file that cannot be read at all gives no rows."""
    try:
        file = read_csv(path)
        return Cells(path, file.header, file.rows, file.lines)
    except DataError as error:
        refused = Finding("error", "csv", error.what, (error.where,) if error.where else (), error.fix)
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError:
        return Cells(path, [], [], np.zeros(0, dtype=np.int64), (refused,))
    return _salvage(path, text, refused)


def _salvage(path: Path, text: str, refused: Finding) -> Cells:
    """The rows that are as long as the header; columns without a name get one."""
    delimiter = max(DELIMITERS, key=re.sub(r'"[^"]*"', "", text.partition("\n")[0]).count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    read: list[tuple[int, list[str]]] = []
    with contextlib.suppress(csv.Error):  # such as a NUL; what the strict reader said is all there is
        read = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]
    if not read:
        return Cells(path, [], [], np.zeros(0, dtype=np.int64), (refused,))
    header: list[str] = []
    for number, name in enumerate(read[0][1], 1):
        unnamed = not name or name in header
        header.append(f"column {number}" if unnamed else name)
    whole = [(line, row) for line, row in read[1:] if len(row) == len(header)]
    return Cells(path, header, [row for _, row in whole], np.array([line for line, _ in whole], dtype=np.int64),
                 (refused,))  # fmt: skip


def split_of_rows(cells: Cells, column: str | None) -> tuple[list[str], list[Finding]]:
    """The split of each row, as a column says: all train without one, and where it says nothing that is known."""
    if column is None or column not in cells.header:
        problems: list[Finding] = []
        if column is not None:
            cells.has({"data.split_column": column}, problems)
        return ["train"] * len(cells.rows), problems
    words = cells.column(column)
    splits = [SPLIT_WORDS.get(word.lower(), "") for word in words]
    unknown = [row for row, split in enumerate(splits) if not split]
    problems = []
    if unknown:
        what = f"column '{column}' says neither train, val nor test in {plural(len(unknown), 'row')}"
        shown = [repr(word) for word in words]
        problems.append(Finding("error", "unknown-split", what, cells.places(unknown, shown), "correct these cells"))
    return [split or "train" for split in splits], problems
