"""A model's layers as rows of a table: small ones beside the layer they follow, repeated blocks once, or groups."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlcli.models.inspect.anatomy import Anatomy
from mlcli.models.inspect.layer import Layer
from mlcli.models.inspect.receptive import Field

MOST_ROWS = 48
"""Rows that can still be taken in on one or two screens."""

SHORT = {
    "Conv2d": "conv",
    "ConvTranspose2d": "convT",
    "Linear": "linear",
    "MaxPool2d": "maxpool",
    "AvgPool2d": "avgpool",
    "AdaptiveAvgPool2d": "avgpool",
    "AdaptiveMaxPool2d": "maxpool",
    "BatchNorm1d": "bn",
    "BatchNorm2d": "bn",
    "FrozenBatchNorm2d": "bn",
    "LayerNorm": "ln",
    "LayerNorm2d": "ln",
    "GroupNorm": "gn",
    "Dropout": "drop",
    "Dropout2d": "drop",
    "StochasticDepth": "drop",
    "MultiheadAttention": "attention",
    "Identity": "",
    "Flatten": "",
}
"""Names of kinds in a row of several; others are written in lower case, those that compute nothing not at all."""


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


def rows_of(anatomy: Anatomy, depth: int | None) -> list[Row]:
    """What is shown of a model.

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
        if runs and _is_small(layer) and _within(runs[-1][0].name, _parent(layer.name)):
            runs[-1].append(layer)
        else:
            runs.append([layer])
    # Only the first has a window; what follows a sum of branches would show the field of the sum.
    kinds = [" ".join(filter(None, map(short_kind, run))) or run[-1].kind.lower() for run in runs]
    return [_row(run, kind, field=run[0].field) for run, kind in zip(runs, kinds, strict=True)]


def _is_small(layer: Layer) -> bool:
    """Normalisation, activation, dropout and the like: no window, no neurons, no work to speak of."""
    plain = layer.parameters == 0 or "Norm" in layer.kind or "PReLU" in layer.kind
    return plain and not layer.kernel and not layer.neurons and not layer.flops and "Pool" not in layer.kind


def short_kind(layer: Layer) -> str:
    """conv, dwconv (each channel for itself), linear, bn, relu ..."""
    if layer.kind == "Conv2d" and layer.groups > 1:
        return "dwconv" if layer.groups == layer.input_shape[-3] else "gconv"
    return SHORT.get(layer.kind, layer.kind.lower())


def _repeats_once(rows: list[Row]) -> list[Row]:
    """Blocks that follow each other and differ in nothing but their number, `layer3.1` to `layer3.5`, as one."""
    out, start = [], 0
    while start < len(rows):
        length, times, depth = _repetition(rows, start)
        for offset in range(length):
            row, last = rows[start + offset], rows[start + (times - 1) * length + offset]
            name = _span(row.name, last.name, depth) if times > 1 else row.name
            out.append(replace(row, name=name, last=last.last, field=last.field, times=row.times * times))
        start += length * times
    return out


def _repetition(rows: list[Row], start: int) -> tuple[int, int, int]:
    """Rows of the block that starts here, how often it occurs in a row, and the depth of its number in the name."""
    parts = rows[start].name.split(".")
    for depth, part in enumerate(parts):
        if not part[-1].isdigit():
            continue
        length = _block_length(rows, start, parts[: depth + 1])
        pattern = [_signature(row, depth) for row in rows[start : start + length]]
        times = 1
        while True:
            following = start + times * length
            block = rows[following : following + length]
            siblings = bool(block) and block[0].name.split(".")[:depth] == parts[:depth]
            if not siblings or [_signature(row, depth) for row in block] != pattern:
                break
            if _block_length(rows, following, block[0].name.split(".")[: depth + 1]) != length:
                break
            times += 1
        if times > 1:
            return length, times, depth
    return 1, 1, 0


def _block_length(rows: list[Row], start: int, prefix: list[str]) -> int:
    length = 0
    while start + length < len(rows) and rows[start + length].name.split(".")[: len(prefix)] == prefix:
        length += 1
    return length


def _signature(row: Row, depth: int) -> tuple:
    """All that is shown of a row but its field; its name without the number at `depth`."""
    parts = row.name.split(".")
    parts[depth : depth + 1] = [re.sub(r"\d+$", "", parts[depth])] if depth < len(parts) else []
    window = (row.first.kernel, row.first.stride, row.first.padding, row.first.dilation)
    return (parts, row.kind, window, row.last.output_shape, row.parameters, row.flops, round(row.saved_bytes))


def _span(first: str, last: str, depth: int) -> str:
    """layer3.1.conv1, layer3.5.conv1 -> layer3.1-5.conv1"""
    parts, number = first.split("."), re.search(r"\d+$", last.split(".")[depth])
    assert number is not None, "a repeated block has a number"
    parts[depth] += f"-{number[0]}"
    return ".".join(parts)


def _grouped(anatomy: Anatomy, depth: int) -> list[Row]:
    """One row for each module `depth` names deep, in the order of their first calls."""
    groups: dict[str, list[Layer]] = {}
    for layer in anatomy.layers:
        groups.setdefault(".".join(layer.name.split(".")[:depth]), []).append(layer)
    return [
        _row(layers, short_kind(layers[0]) if len(layers) == 1 else anatomy.kinds.get(name, ""), name=name,
             field=layers[-1].field)
        for name, layers in groups.items()
    ]  # fmt: skip


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _within(name: str, module: str) -> bool:
    return not module or name.startswith(f"{module}.")
