"""The answer of `mlcli inspect`: the table of a model's layers, its cost, oddities, and the first loss.

The table is no wider than a terminal: small layers in the row of the one they follow, repeated blocks once, or whole
modules as one row.
"""

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import floor
from typing import Any

from mlcli.models.inspect.anatomy import Anatomy, Layer
from mlcli.models.inspect.dataflow import Collapse, Field
from mlcli.text import ABSENT, count, first_few, listed, same_sides, screen_width, sides, size, table, truncated

DISPENSABLE = ("d", "neurons", "p", "s", "kernel")
"""Columns left out one after the other where a terminal is narrower."""
LEAST_WIDTH, LEAST_NAME, MOST_KIND = 60, 12, 17
"""Columns that the table and its names have in any case, and that kinds have at most."""
MOST_ROWS = 48
"""Rows that can still be taken in on one or two screens."""
SHORT = {
    "conv": ("Conv2d",),
    "convT": ("ConvTranspose2d",),
    "maxpool": ("MaxPool2d", "AdaptiveMaxPool2d"),
    "avgpool": ("AvgPool2d", "AdaptiveAvgPool2d"),
    "bn": ("BatchNorm1d", "BatchNorm2d", "FrozenBatchNorm2d"),
    "ln": ("LayerNorm", "LayerNorm2d"),
    "gn": ("GroupNorm",),
    "drop": ("Dropout", "Dropout2d", "StochasticDepth"),
    "attention": ("MultiheadAttention",),
    "": ("Identity", "Flatten"),
}
"""Names of kinds in a row of several; others are written in lower case, those that compute nothing not at all."""
MISSED = {
    "high": "the first loss is far above chance: the model is sure of wrong answers before it has learned any; look at "
    "model.init, at the scale of the inputs, at weights learned elsewhere",
    "low": "the first loss is far below chance: the model knows something already (weights learned elsewhere?), or the "
    "batch holds few classes, or the answers leak into the inputs",
}
"""Explanations of a first loss far from that of chance."""


@dataclass(frozen=True)
class Row:
    """Some layers that are shown together.

    first: the one that names the row and has the window; kind: all of them in words; last: of the repetitions, whose
    field is the widest; times: how often the row occurs. Sums are over the row, once.
    """

    name: str
    kind: str
    first: Layer
    last: Layer
    neurons: int
    parameters: int
    flops: float
    saved_bytes: float
    field: Field | None
    times: int = 1


# --- which rows ------------------------------------------------------------------------------------------------------


def rows_of(anatomy: Anatomy, depth: int | None) -> list[Row]:
    """Return the rows that are shown of a model.

    depth: 0 for each single layer, N for the modules N names deep; None for what fits: layers with their norm and
    activation, repeated blocks once, or the deepest modules that are few enough.
    """
    layers = anatomy.layers
    if depth == 0:
        return [_row([layer], layer.kind, field=layer.field) for layer in layers]
    if depth is not None:
        return _grouped(anatomy, depth)
    rows = _folded(layers)
    if len(rows) > MOST_ROWS:
        rows = _repeats_once(rows)
    if len(rows) <= MOST_ROWS:
        return rows
    deepest = max(layer.name.count(".") for layer in layers) + 1
    candidates = (_repeats_once(_grouped(anatomy, d)) for d in range(deepest, 0, -1))
    return next((rows for rows in candidates if len(rows) <= MOST_ROWS), _grouped(anatomy, 1))


def _row(layers: Sequence[Layer], kind: str, *, name: str | None = None, field: Field | None) -> Row:
    return Row(
        name=layers[0].name if name is None else name,
        kind=kind,
        first=layers[0],
        last=layers[-1],
        neurons=sum(layer.neurons for layer in layers),
        parameters=sum(layer.parameters for layer in layers),
        flops=sum(layer.flops for layer in layers),
        saved_bytes=sum(layer.saved_bytes for layer in layers),
        field=field,
    )


def _folded(layers: Sequence[Layer]) -> list[Row]:
    """Each layer that computes with weights or windows, in one row with the norm, activation and dropout behind it."""
    runs: list[list[Layer]] = []
    for layer in layers:
        parent = layer.name.rpartition(".")[0]
        plain = layer.parameters == 0 or "Norm" in layer.kind or "PReLU" in layer.kind
        computes = layer.kernel or layer.neurons or layer.flops or "Pool" in layer.kind
        is_near = runs and (not parent or runs[-1][0].name.startswith(f"{parent}."))
        if is_near and plain and not computes:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    # Only the first has a window; what follows a sum of branches would show the field of the sum.
    kinds = [" ".join(filter(None, map(_short_kind, run))) or run[-1].kind.lower() for run in runs]
    return [_row(run, kind, field=run[0].field) for run, kind in zip(runs, kinds, strict=True)]


def _short_kind(layer: Layer) -> str:
    """conv, dwconv (each channel for itself), linear, bn, relu ..."""
    if layer.kind == "Conv2d" and layer.groups > 1:
        return "dwconv" if layer.groups == layer.input_shape[-3] else "gconv"
    return next((short for short, kinds in SHORT.items() if layer.kind in kinds), layer.kind.lower())


def _grouped(anatomy: Anatomy, depth: int) -> list[Row]:
    """One row for each module `depth` names deep, in the order of their first calls."""
    groups: dict[str, list[Layer]] = {}
    for layer in anatomy.layers:
        groups.setdefault(".".join(layer.name.split(".")[:depth]), []).append(layer)
    return [
        _row(layers, _short_kind(layers[0]) if len(layers) == 1 else anatomy.kinds.get(name, ""), name=name,
             field=layers[-1].field)
        for name, layers in groups.items()
    ]  # fmt: skip


def _repeats_once(rows: list[Row], depth: int = 0) -> list[Row]:
    """Blocks that follow each other and differ in nothing but their number, `layer3.1` to `layer3.5`, as one.

    depth: of the number in the names; rows have all names before it in common.
    """

    def shown(row: Row) -> tuple:
        """All that is shown of a row but its field; its name without the number at `depth`."""
        parts = row.name.split(".")
        parts[depth : depth + 1] = [re.sub(r"\d+$", "#", part) for part in parts[depth : depth + 1]]
        window = (row.first.kernel, row.first.stride, row.first.padding, row.first.dilation)
        return (parts, row.kind, window, row.last.output_shape, row.parameters, row.flops, round(row.saved_bytes))

    blocks = [list(block) for _, block in groupby(rows, lambda row: row.name.split(".")[: depth + 1])]
    out: list[Row] = []
    for _, alike in groupby(blocks, lambda block: [*map(shown, block)]):
        first, *others = alike
        if others:
            out += [
                replace(row, name=_span(row.name, end.name, depth), last=end.last, field=end.field,
                        times=row.times * (1 + len(others)))
                for row, end in zip(first, others[-1], strict=True)
            ]  # fmt: skip
        elif any(row.name.count(".") > depth for row in first):
            out += _repeats_once(first, depth + 1)
        else:
            out += first
    return out


def _span(first: str, last: str, depth: int) -> str:
    """layer3.1.conv1, layer3.5.conv1 -> layer3.1-5.conv1"""
    parts, number = first.split("."), re.search(r"\d+$", last.split(".")[depth])
    assert number is not None, "a repeated block has a number"
    parts[depth] += f"-{number[0]}"
    return ".".join(parts)


# --- the table -------------------------------------------------------------------------------------------------------


def layer_table(anatomy: Anatomy, depth: int | None) -> str:
    """The layers in the order of their calls, as `rows_of` chooses them, with a legend below; as wide as the screen."""
    rows, width = rows_of(anatomy, depth), max(LEAST_WIDTH, screen_width())
    saved = sum(row.saved_bytes * row.times for row in rows)
    unit, factor = ("MB", 1e6) if saved >= 2e6 else ("kB", 1e3)
    header = ["kind", "kernel", "s", "p", "d", "output", "neurons", "params", "FLOPs", "field", unit]
    body = [[*_cells(row), _amount(row.saved_bytes / factor)] for row in rows]
    total = ["", "", "", "", "", "", f"{sum(row.neurons * row.times for row in rows):,}",
             f"{anatomy.parameters:,}", count(anatomy.flops), "", _amount(saved / factor)]  # fmt: skip
    # A model without windows needs no kernel column.
    kept = [c for c in range(len(header)) if c == 0 or any(line[c] for line in (*body, total))]
    taken = [2 + max(map(len, column)) for column in zip(header, *body, total, strict=True)]
    left_out = []
    for title in DISPENSABLE:
        column = header.index(title)
        if column in kept and sum(taken[c] for c in kept) > width - LEAST_NAME:
            kept.remove(column)
            left_out.append(title)
    room = max(LEAST_NAME, width - sum(taken[c] for c in kept))
    header, *body, total = ([line[c] for c in kept] for line in (header, *body, total))
    names, headings = _names(rows, room, width)
    lines = [[name, *cells] for name, cells in zip(names, body, strict=True)]
    head, *shown, last = table(["layer", *header], [*lines, ["total", *total]], left=2).split("\n")
    for place, heading in reversed(headings):
        shown.insert(place, heading)
    rule = "-" * max(map(len, (head, *shown, last)))
    legend = [*_legend(anatomy, repeated=any(row.times > 1 for row in rows), header=header)]
    if left_out:
        legend.append(f"left out at {width} columns: {listed(left_out)}; a wider terminal, or --json, shows all")
    return "\n".join([head, *shown, rule, last, *(textwrap.fill(line, width) for line in legend)])


def _names(rows: list[Row], room: int, width: int) -> tuple[list[str], list[tuple[int, str]]]:
    """The rows' names, and (number of the row below it, heading) for the modules that they are in.

    Without headings where all names fit; otherwise headings take over as many of the outer modules as is needed.
    """
    paths = [row.name.split(".") for row in rows]
    for depth in range(max(map(len, paths))):
        outer = [path[: min(depth, len(path) - 1)] for path in paths]
        names = [
            "  " * bool(module) + ".".join(path[len(module) :]) + (f" x{row.times}" if row.times > 1 else "")
            for row, path, module in zip(rows, paths, outer, strict=True)
        ]
        if max(map(len, names)) <= room:
            break
    begins = [n for n, module in enumerate(outer) if module and (n == 0 or module != outer[n - 1])]
    for n in begins.copy():  # a module of one row needs no heading
        whole = ".".join(paths[n]) + (f" x{rows[n].times}" if rows[n].times > 1 else "")
        if (n + 1 == len(rows) or outer[n + 1] != outer[n]) and len(whole) <= room:
            names[n] = whole
            begins.remove(n)
    return [_elided(name, room) for name in names], [(n, _elided(".".join(outer[n]), width)) for n in begins]


def _cells(row: Row) -> list[str]:
    layer = row.first
    kernel = sides(layer.kernel) if layer.kernel else ""
    if "Adaptive" in layer.kind:
        kernel = "all" if set(layer.output_shape[-2:]) == {1} else "adapts"
    return [
        truncated(row.kind, MOST_KIND),
        kernel,
        *(same_sides(value) for value in (layer.stride, layer.padding, layer.dilation)),
        sides(row.last.output_shape) if row.last.output_shape else ABSENT,
        f"{row.neurons:,}" if row.neurons else "",
        f"{row.parameters:,}" if row.parameters else "",
        count(row.flops) if row.flops else "",
        row.field.text() if row.field else "",
    ]


def _amount(value: float) -> str:
    """1,234, 56.7 or 0.12; nothing for what rounds to 0."""
    if value >= 100:
        return f"{value:,.0f}"
    text = f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return "" if float(text) == 0 else text


def _elided(text: str, width: int) -> str:
    """The text, its middle left out if it is longer than the width."""
    tail = (width - 1) * 2 // 3
    return text if len(text) <= width else f"{text[: width - 1 - tail]}…{text[-tail:]}"


def _legend(anatomy: Anatomy, repeated: bool, header: list[str]) -> Iterator[str]:
    letters = ", ".join(word for word in ("s stride", "p padding", "d dilation") if word[0] in header)
    field = "field: pixels of the image one output sees" if "field" in header else ""
    yield "; ".join(filter(None, [letters, field, "FLOPs of one sample, forward"]))
    how = f"measured on {anatomy.measured} and scaled" if anatomy.measured != anatomy.batch_size else "measured"
    yield f"{header[-1]}: what autograd keeps for the backward pass of {anatomy.batch_size} samples, {how}"
    if repeated:
        yield "xN: such blocks follow each other; the numbers are of one of them, the field of the last"


# --- below the table --------------------------------------------------------------------------------------------------


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
    still, samples = anatomy.parameters - anatomy.trainable, anatomy.batch_size
    frozen = f", {still:,} of them frozen" if still else ""
    lines = [("model", f"{anatomy.parameters:,} parameters{frozen}, {size(memory['weights'])}")]
    if anatomy.uncalled:
        lines.append(("", f"never called: {first_few(anatomy.uncalled)}"))
    whole = count(3 * anatomy.flops * samples)
    lines.append(("work", f"{count(anatomy.flops)} FLOPs a sample forward, about three times that with the backward "
                          f"pass: {whole} for {samples} samples"))  # fmt: skip
    names = {"optimizer": f"{optimizer} state", "average": "averaged weights"}
    parts = " + ".join(f"{names.get(what, what)} {size(taken)}" for what, taken in memory.items() if taken)
    lines.append(("memory", f"about {size(sum(memory.values()))} to train with {samples} samples at once: {parts}"))
    return lines


def arithmetic_lines(anatomy: Anatomy) -> list[str]:
    """`floor((H + 2p - d(k - 1) - 1) / s + 1)` with its numbers for each convolution and pooling, by side."""
    lines = ["output side = floor((H + 2p - d(k - 1) - 1) / s + 1)"]
    for layer in anatomy.layers:
        if layer.kernel and len(layer.kernel) <= len(layer.input_shape) and layer.stride:
            both = dict.fromkeys(_arithmetic(layer, axis) for axis in range(len(layer.kernel)))
            lines += [f"  {layer.name}: {side}" for side in both]
    return lines


def _arithmetic(layer: Layer, axis: int) -> str:
    assert layer.kernel and layer.stride and layer.dilation, "a window has all three"  # noqa: PT018
    place = axis - len(layer.kernel)
    given, got = layer.input_shape[place], layer.output_shape[place]
    k, s, d = layer.kernel[axis], layer.stride[axis], layer.dilation[axis]
    if "Transpose" in layer.kind:
        return f"({given} - 1) * {s} + {d}*({k} - 1) + 1 and its paddings = {got}"
    if isinstance(layer.padding, tuple):
        total, padded = 2 * layer.padding[axis], f"2*{layer.padding[axis]}"
    else:  # "same"
        total = d * (k - 1)
        padded = f"{total}"
    exact = (given + total - d * (k - 1) - 1) / s + 1
    word = "floor" if floor(exact) == got else "ceil"
    return f"{word}(({given} + {padded} - {d}*({k} - 1) - 1) / {s} + 1) = {word}({exact:g}) = {got}"


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
    if first_loss["verdict"] in MISSED:
        lines.append(("warning", MISSED[first_loss["verdict"]]))
    return lines
