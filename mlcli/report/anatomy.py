"""What `mlcli inspect` prints: the layers as a table, what the model costs, what is odd about it, and the first loss."""

import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from math import floor
from typing import Any

from mlcli.models.anatomy import Anatomy, Layer
from mlcli.models.collapse import Collapse
from mlcli.models.receptive import Field
from mlcli.report.layers import Row, rows_of
from mlcli.report.tables import ABSENT, table
from mlcli.report.text import count, size

WIDTH = 100
"""Columns of a terminal that all of it fits into."""
LEAST_NAME, LEAST_KIND = 12, 10  # columns they have in any case


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
    room = WIDTH - sum(widths) - 2 * len(widths)  # for the names
    kind_width = max(LEAST_KIND, widths[0] - max(0, LEAST_NAME - room))
    body = [[_cut(kind, kind_width), *cells] for kind, *cells in body]
    names, headings = _names(rows, max(LEAST_NAME, room))
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


def _names(rows: list[Row], room: int) -> tuple[list[str], list[tuple[int, str]]]:
    """The rows' names, and (number of the row below it, heading) for each module that several of them are in.

    Without headings where the names fit; otherwise below modules as few names deep as make them fit.
    """
    names = [row.name.split(".") for row in rows]
    full = [".".join(name) + _times(row) for name, row in zip(names, rows, strict=True)]
    if max(map(len, full)) <= room:
        return full, []
    depths = range(1, max(map(len, names)))
    longest = {depth: max(len(".".join(name[depth:])) + 2 for name in names) for depth in depths}
    depth = next((depth for depth in depths if longest[depth] <= room), min(depths, key=lambda d: longest[d], default=1))
    headings, last = [], ""
    for number, (name, row) in enumerate(zip(names, rows, strict=True)):
        module = ".".join(name[:depth]) + _times(row) if len(name) > depth else ""
        if module and module != last:
            headings.append((number, module))
        last = module
    leaves = ["  " + ".".join(n[depth:]) if len(n) > depth else whole for n, whole in zip(names, full, strict=True)]
    return [_elided(leaf, room) for leaf in leaves], headings


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


def collapse_lines(collapses: Sequence[Collapse]) -> list[tuple[str, str]]:
    """A warning for each pair of layers that is a single one in truth, an observation where that is the usual way."""
    plain = [c for c in collapses if not c.meant]
    lines = [
        ("warning", f"nothing nonlinear between {c.first} and {c.second}: together they can do no more than {c.into}; "
                    "put an activation between them, or leave one out")
        for c in plain[:4]
    ]  # fmt: skip
    if len(plain) > 4:
        lines.append(("warning", f"and so {len(plain) - 4} more pairs, such as {plain[4].first} and {plain[4].second}"))
    for meant, group in groupby(sorted((c for c in collapses if c.meant), key=lambda c: c.meant), lambda c: c.meant):
        first, *others = group
        more = f" and {len(others)} more" if others else ""
        lines.append(("note", f"nothing nonlinear between {first.first} and {first.second}{more}: {meant}, as is usual "
                              "in such designs"))  # fmt: skip
    return lines


def cost_lines(anatomy: Anatomy, memory: dict[str, float], optimizer: str) -> list[tuple[str, str]]:
    """Size, work, and the memory that training takes. memory: bytes by what takes them, the weights first."""
    still = anatomy.parameters - anatomy.trainable
    frozen = f", {still:,} of them frozen" if still else ""
    yield_ = [("model", f"{anatomy.parameters:,} parameters{frozen}, {size(memory['weights'])}")]
    if anatomy.uncalled:
        yield_.append(("", f"never called: {', '.join(anatomy.uncalled[:5])}"))
    yield_.append(("work", f"{count(anatomy.flops)} FLOPs a sample forward, about three times that with the backward "
                           f"pass: {count(3 * anatomy.flops * anatomy.batch_size)} for {anatomy.batch_size} samples"))  # fmt: skip
    names = {"optimizer": f"{optimizer} state", "average": "averaged weights"}
    parts = " + ".join(f"{names.get(what, what)} {size(taken)}" for what, taken in memory.items() if taken)
    yield_.append(("memory", f"about {size(sum(memory.values()))} to train with {anatomy.batch_size} samples at once: "
                             f"{parts}"))  # fmt: skip
    return yield_


def arithmetic_lines(anatomy: Anatomy) -> list[str]:
    """`floor((H + 2p - d(k - 1) - 1) / s + 1)` with its numbers for each convolution and pooling, by side."""
    lines = ["output side = floor((H + 2p - d(k - 1) - 1) / s + 1)"]
    for layer in anatomy.layers:
        if layer.kernel is None or len(layer.kernel) > len(layer.input_shape) or layer.stride is None:
            continue
        sides = dict.fromkeys(_arithmetic(layer, axis) for axis in range(len(layer.kernel)))
        lines += [f"  {layer.name}: {side}" for side in sides]
    return lines


def _arithmetic(layer: Layer, axis: int) -> str:
    assert layer.kernel and layer.stride and layer.dilation
    place = axis - len(layer.kernel)
    given, got = layer.input_shape[place], layer.output_shape[place]
    k, s, d = layer.kernel[axis], layer.stride[axis], layer.dilation[axis]
    if "Transpose" in layer.kind:
        return f"({given} - 1) * {s} + {d}*({k} - 1) + 1 and its paddings = {got}"
    total = d * (k - 1) if isinstance(layer.padding, str) else 2 * layer.padding[axis]  # type: ignore[index]
    padded = f"{total}" if isinstance(layer.padding, str) else f"2*{total // 2}"
    exact = (given + total - d * (k - 1) - 1) / s + 1
    word = "floor" if floor(exact) == got else "ceil"
    return f"{word}(({given} + {padded} - {d}*({k} - 1) - 1) / {s} + 1) = {word}({exact:g}) = {got}"


def plain(anatomy: Anatomy) -> dict[str, Any]:
    """Every single layer as JSON's types."""
    layers = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "kernel": layer.kernel,
            "stride": layer.stride,
            "padding": layer.padding,
            "dilation": layer.dilation,
            "groups": layer.groups,
            "input_shape": layer.input_shape,
            "output_shape": layer.output_shape,
            "neurons": layer.neurons,
            "parameters": layer.parameters,
            "trainable": layer.trainable,
            "flops": layer.flops,
            "receptive_field": field_text(layer.field) or None,
            "saved_bytes": round(layer.saved_bytes),
        }
        for layer in anatomy.layers
    ]
    collapses = [{"first": c.first, "second": c.second, "into": c.into, "meant": c.meant} for c in anatomy.collapses]
    return {
        "layers": layers,
        "collapses": collapses,
        "parameters": anatomy.parameters,
        "trainable": anatomy.trainable,
        "uncalled": anatomy.uncalled,
        "flops_per_sample": anatomy.flops,
        "saved_bytes": round(anatomy.saved_bytes),
        "samples_at_once": anatomy.batch_size,
        "samples_measured": anatomy.measured,
    }


def loss_lines(first_loss: dict[str, Any]) -> list[tuple[str, str]]:
    """The first loss beside that of chance, and what it means if they differ. Keys as `inspect` collects them."""
    loss, expected = first_loss["loss"], first_loss["at_random"]
    terms = first_loss["terms"]
    parts = f" ({', '.join(f'{name} {value:.4g}' for name, value in terms.items())})" if len(terms) > 1 else ""
    said = f"{loss:.4g}{parts} on {first_loss['samples']} samples before any training"
    if expected is None:
        return [("loss", said)]
    lines = [("loss", f"{said}; at random it would be {expected:.4g} ({first_loss['formula']}): "
                      f"{loss / expected - 1:+.0%}")]  # fmt: skip
    if first_loss["verdict"] == "high":
        lines.append(("warning", "the first loss is far above chance: the model is sure of wrong answers before it has "
                                 "learned any; look at model.init, at the scale of the inputs, at weights learned "
                                 "elsewhere"))  # fmt: skip
    if first_loss["verdict"] == "low":
        lines.append(("warning", "the first loss is far below chance: the model knows something already (weights learned "
                                 "elsewhere?), or the batch holds few classes, or the answers leak into the inputs"))  # fmt: skip
    return lines
