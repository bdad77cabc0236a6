"""Rows of a CSV file, one by one: a bad one is taken down as a fault and does not keep the others from being read."""

import csv
import difflib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlcli.data.sources.csv_file import DELIMITERS
from mlcli.errors import DataError
from mlcli.tasks.detection.data.annotations.table import Scribe


@dataclass(frozen=True)
class Row:
    """cells: by column, without blanks around them. where: file and line."""

    cells: dict[str, str]
    where: str


def read_rows(path: Path, scribe: Scribe, columns: tuple[str, ...]) -> Iterator[Row]:
    """Rows of a CSV file with a header line that names at least these columns; spelling and order are the file's.

    Raises DataError if the file or a column is not there.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read the file: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8 text", where=str(path), fix="save the file as UTF-8") from error
    if not text.strip():
        scribe.fault("empty_file", "the file is empty", str(path))
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
            yield Row(dict(zip(header, map(str.strip, cells), strict=True)), where)
        elif any(cells):
            scribe.fault("malformed", f"{len(cells)} cells, but the header has {len(header)}", where)
