"""What `mlcli inspect` says below the table of layers: what a model costs, what is odd, and the first loss."""

from collections.abc import Sequence
from itertools import groupby
from math import floor
from typing import Any

from mlcli.models.inspect.anatomy import Anatomy, Layer
from mlcli.models.inspect.dataflow import Collapse
from mlcli.report.layer_table import field_text
from mlcli.text import count, first_few, size

MISSED = {
    "high": "the first loss is far above chance: the model is sure of wrong answers before it has learned any; look at "
    "model.init, at the scale of the inputs, at weights learned elsewhere",
    "low": "the first loss is far below chance: the model knows something already (weights learned elsewhere?), or the "
    "batch holds few classes, or the answers leak into the inputs",
}
"""What a first loss far from that of chance means."""


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
            sides = dict.fromkeys(_arithmetic(layer, axis) for axis in range(len(layer.kernel)))
            lines += [f"  {layer.name}: {side}" for side in sides]
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


def plain(anatomy: Anatomy) -> dict[str, Any]:
    """Every single layer as JSON's types."""
    layers = [
        {
            **{name: value for name, value in vars(layer).items() if name not in ("ceil", "field")},
            "receptive_field": field_text(layer.field) or None,
            "saved_bytes": round(layer.saved_bytes),
        }
        for layer in anatomy.layers
    ]
    return {
        "layers": layers,
        "collapses": [vars(collapse) for collapse in anatomy.collapses],
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
    if first_loss["verdict"] in MISSED:
        lines.append(("warning", MISSED[first_loss["verdict"]]))
    return lines
