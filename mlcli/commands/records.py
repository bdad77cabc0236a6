"""Records of `mlcli predict` on the screen and in files."""

import contextlib
import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path

from mlcli.engine.predicting import Answers, Inputs, Record
from mlcli.files import write_output
from mlcli.show.terminal import bar
from mlcli.text import csv_cell, numbers, screen_width, table


def write_records(
    records: Iterable[Record], output: Path | None, predictor: Answers, inputs: Inputs, as_table: bool
) -> tuple[list[Record], int, int]:
    """Write records as one file, or print them: as JSON lines, or as a table once all are there.

    Returns those with an error, the number of those with something unknown in them, and that of all. Raises
    OutputError.
    """
    failed, kept, unknown, count = [], [], 0, 0
    try:
        at_end = output is not None or as_table
        with bar("answering", len(inputs.names), "input") if at_end else contextlib.nullcontext() as shown:
            for count, record in enumerate(records, start=1):  # noqa: B007
                if "error" in record:
                    failed.append(record)
                unknown += "unknown" in record
                if shown is None:
                    print(json.dumps(record, ensure_ascii=False))
                else:
                    kept.append(record)
                    shown.update(1)
    finally:  # what is answered is shown, whatever keeps the rest from it
        if as_table and kept:
            print(_as_table(kept, predictor))
    if output is not None:
        if output.suffix == ".csv":
            text = _as_csv(kept, predictor, inputs)
        elif output.suffix == ".jsonl":
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
        else:
            text = predictor.formats[output.suffix](kept)
        write_output(output, text.encode())
    return failed, unknown, count


def _rows(records: list[Record], predictor: Answers) -> list[Record]:
    return [row for record in records for row in ([record] if "error" in record else predictor.rows(record))]


def _as_table(records: list[Record], predictor: Answers) -> str:
    """Return a table for people: texts first, then numbers, but for those of single classes."""
    of_classes = {key for row in _rows(records[:1], predictor) for key in row.keys() - records[0] if key[:2] == "p_"}
    rows = [{key: row[key] for key in row if key not in of_classes} for row in _rows(records, predictor)]
    longest = max(20, screen_width() - 44)
    columns: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key) for row in rows]
        if all(isinstance(value, int | float | None) for value in values):
            columns[key] = numbers(values)
        else:  # the end of a path tells more than its beginning
            texts = ["" if value is None else str(value) for value in values]
            columns[key] = [text if len(text) <= longest else f"…{text[1 - longest :]}" for text in texts]
    texts = [key for key in columns if not all(isinstance(row.get(key), int | float | None) for row in rows)]
    header = [*texts, *(key for key in columns if key not in texts)]
    return table(header, list(zip(*(columns[key] for key in header), strict=True)), left=len(texts))


def _as_csv(records: list[Record], predictor: Answers, inputs: Inputs) -> str:
    """A column per entry, and `error` at the end; before them, for rows of a table, the columns these have, whose names
    they keep: an entry of the same name becomes `predicted_label`."""
    from mlcli.data.inputs import RowInputs

    rows = _rows(records, predictor)
    if isinstance(inputs, RowInputs):
        given = {name for row in inputs.rows[:1] for name in row}
        named = ({f"predicted_{key}" if key in given else key: value for key, value in row.items()} for row in rows)
        rows = [asked | row for asked, row in zip(inputs.rows, named, strict=True)]
    columns = dict.fromkeys(key for row in rows for key in row if key != "error")
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, "error"], lineterminator="\n")
    writer.writerow({key: csv_cell(key) for key in writer.fieldnames})
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()
