"""The table of a model's layers as text, no wider than a terminal."""

import textwrap
from collections.abc import Iterable, Sequence

from mlcli.models.inspect.anatomy import Anatomy
from mlcli.models.inspect.receptive import Field
from mlcli.report.layers import Row, rows_of
from mlcli.text import ABSENT, count, table

WIDTH = 100
"""Columns of a terminal that all of it fits into."""
LEAST_NAME, LEAST_KIND = 12, 10
"""Columns that names and kinds have in any case."""


def layer_table(anatomy: Anatomy, depth: int | None) -> str:
    """The layers in the order of their calls, as `rows_of` chooses them, with a legend below."""
    rows = rows_of(anatomy, depth)
    saved = sum(row.saved_bytes * row.times for row in rows)
    unit, factor = ("MB", 1e6) if saved >= 2e6 else ("kB", 1e3)
    header = ["kind", "kernel", "s", "p", "d", "output", "neurons", "params", "FLOPs", "field", unit]
    body = [[*_cells(row), _amount(row.saved_bytes / factor)] for row in rows]
    total = ["", "", "", "", "", "", f"{sum(row.neurons * row.times for row in rows):,}",
             f"{anatomy.parameters:,}", count(anatomy.flops), "", _amount(saved / factor)]  # fmt: skip
    header, *body, total = _without_empty_columns([header, *body, total])
    widths = [max(map(len, column)) for column in zip(header, *body, total, strict=True)]
    kind_width, names, headings = _fitted(rows, widths)
    body = [[_cut(kind, kind_width), *cells] for kind, *cells in body]
    lines = [[name, *cells] for name, cells in zip(names, body, strict=True)]
    head, *shown, last = table(["layer", *header], [*lines, ["total", *total]], left=2).split("\n")
    for place, heading in reversed(headings):
        shown.insert(place, _elided(heading, WIDTH))
    rule = "-" * max(map(len, (head, *shown, last)))
    legend = _legend(anatomy, repeated=any(row.times > 1 for row in rows), header=header)
    return "\n".join([head, *shown, rule, last, *(textwrap.fill(line, WIDTH) for line in legend)])


def _cells(row: Row) -> list[str]:
    layer = row.first
    kernel = "x".join(map(str, layer.kernel)) if layer.kernel else ""
    if "Adaptive" in layer.kind:
        kernel = "all" if set(layer.output_shape[-2:]) == {1} else "adapts"
    return [
        row.kind,
        kernel,
        *(_sides(value) for value in (layer.stride, layer.padding, layer.dilation)),
        "x".join(map(str, row.last.output_shape)) or ABSENT,
        f"{row.neurons:,}" if row.neurons else "",
        f"{row.parameters:,}" if row.parameters else "",
        count(row.flops) if row.flops else "",
        field_text(row.field),
    ]


def _fitted(rows: list[Row], widths: list[int]) -> tuple[int, list[str], list[tuple[int, str]]]:
    """The width of kinds, and `_names` in the room that is left: kinds are cut only for names that fit nowhere else."""
    others = sum(widths[1:]) + 2 * len(widths)
    least = min(widths[0], LEAST_KIND)
    for kind_width in range(widths[0], least - 1, -1):
        room = WIDTH - others - kind_width
        names, headings = _names(rows, max(room, LEAST_NAME))
        if max(LEAST_NAME, *map(len, names)) <= room:
            return kind_width, names, headings
    return least, [_elided(name, max(room, LEAST_NAME)) for name in names], headings


def _names(rows: list[Row], room: int) -> tuple[list[str], list[tuple[int, str]]]:
    """The rows' names, and (number of the row below it, heading) for each module that several of them are in.

    Without headings where all names fit; otherwise below the outermost module whose rows all fit below it.
    """
    paths = [row.name.split(".") for row in rows]
    full = [".".join(path) + _times(row) for path, row in zip(paths, rows, strict=True)]
    if max(map(len, full)) <= room:
        return full, []
    modules = [_heading(path, paths, room) for path in paths]
    shown: list[str] = []
    headings: list[tuple[int, str]] = []
    for number, (module, path, whole) in enumerate(zip(modules, paths, full, strict=True)):
        begins = number == 0 or module != modules[number - 1] or rows[number].times != rows[number - 1].times
        ends = number + 1 == len(rows) or module != modules[number + 1]
        if not module or (begins and ends and len(whole) <= room):
            shown.append(whole)
            continue
        if begins:
            headings.append((number, ".".join(module) + _times(rows[number])))
        shown.append("  " + ".".join(path[len(module) :]))
    return shown, headings


def _heading(path: list[str], paths: list[list[str]], room: int) -> list[str]:
    """The outermost module of a layer that shortens the names of all layers in it enough; none for outer layers."""
    for depth in range(1, len(path)):
        inside = [other for other in paths if other[:depth] == path[:depth] and len(other) > depth]
        if max(len(".".join(other[depth:])) + 2 for other in inside) <= room:
            return path[:depth]
    return path[:-1]


def _times(row: Row) -> str:
    return f" x{row.times}" if row.times > 1 else ""


def field_text(field: Field | None) -> str:
    """7 (pixels square), 7x3 (high, wide), all (the whole image), or nothing."""
    if field is None or not (field.known or field.whole):
        return ""
    if field.whole:
        return "all"
    height, width = map(round, field.size)
    return str(height) if height == width else f"{height}x{width}"


def _sides(value: Sequence[int] | str | None) -> str:
    """2 for the same on both sides, 2x1 for height and width."""
    if value is None or isinstance(value, str):
        return value or ""
    return str(value[0]) if len(set(value)) == 1 else "x".join(map(str, value))


def _amount(value: float) -> str:
    """1,234, 56.7 or 0.12; nothing for what rounds to 0."""
    if value >= 100:
        return f"{value:,.0f}"
    text = f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return "" if float(text) == 0 else text


def _without_empty_columns(lines: list[list[str]]) -> list[list[str]]:
    """A model without windows needs no kernel column."""
    kept = [c for c in range(len(lines[0])) if c == 0 or any(line[c] for line in lines[1:])]
    return [[line[c] for c in kept] for line in lines]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _elided(text: str, width: int) -> str:
    """The text, its middle left out if it is longer than the width."""
    if len(text) <= width:
        return text
    tail = (width - 1) * 2 // 3
    return f"{text[: width - 1 - tail]}…{text[-tail:]}"


def _legend(anatomy: Anatomy, repeated: bool, header: list[str]) -> Iterable[str]:
    words = ["s stride, p padding, d dilation"] if "s" in header else []
    if "field" in header:
        words.append("field: pixels of the image one output sees")
    yield "; ".join([*words, "FLOPs of one sample, forward"])
    how = f"measured on {anatomy.measured} and scaled" if anatomy.measured != anatomy.batch_size else "measured"
    yield f"{header[-1]}: what autograd keeps for the backward pass of {anatomy.batch_size} samples, {how}"
    if repeated:
        yield "xN: such blocks follow each other; the numbers are of one of them, the field of the last"
