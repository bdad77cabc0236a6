"""Trace a model's input through it, tensor operation by operation: what of it is seen, and which
layers collapse.

For each piece of memory that depends on the input it is known what of the image it sees, which layer it comes from but
for affine changes, and whether autograd keeps it. Memory is identified by its storage, so views and operations in place
come out right.

So layers are found that collapse into their neighbour: two linear maps with nothing nonlinear between them are one,
W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2), and likewise two convolutions, with a batch norm, an average pooling or
a dropout in between or not. Such a pair can still be meant: a narrow middle bounds the rank of the product (the linear
bottleneck of MobileNetV2, Sandler et al. 2018, arXiv:1801.04381), groups leave weights out (depthwise-separable
convolutions, Chollet 2017, arXiv:1610.02357), and a layer that serves several places shares its weights among them
(feature pyramids, Lin et al. 2017, arXiv:1612.03144).

Receptive fields: through a window of kernel k, stride s and dilation d the field grows by `d (k - 1) jump` pixels, and
neighbours move `s` times as far apart (Araujo, Norris & Sim 2019, "Computing Receptive Fields of Convolutional Neural
Networks"). Where branches meet, the larger field counts. Two things that see the whole image are left out, as is the
custom: the statistics of normalisation layers, and gates of one number per channel (squeeze-and-excitation, Hu et al.
2018).
"""

from collections import Counter
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from mlcli.text import same_sides, sides

# Affine in their first tensor, so that a linear layer before them and one behind them still make one linear layer.
_AFFINE = {
    *("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update"),
    *("avg_pool2d", "_adaptive_avg_pool2d", "mean", "sum", "upsample_nearest2d", "upsample_bilinear2d"),
    *("constant_pad_nd", "clone", "_to_copy", "neg", "add", "sub", "mul", "div", "addcmul", "native_dropout"),
}
_FRESH = ("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_")


@dataclass(frozen=True)
class Field:
    """Receptive field of a position of a feature map.

    size: height and width in pixels of the model's input, parts beyond its border included.
    jump: pixels between the fields of neighbouring positions, by height and width.
    positions: of the map, over all of which a pooling or a linear layer may look.
    whole: it depends on the whole image; size and jump mean nothing then.
    known: False where it differs from place to place, as behind attention within windows (Liu et al. 2021).
    """

    size: tuple[float, float] = (1, 1)
    jump: tuple[float, float] = (1, 1)
    positions: int = 1
    whole: bool = False
    known: bool = True

    def text(self) -> str:
        """7 (pixels square), 7x3 (high, wide), all (the whole image), or nothing."""
        if self.whole:
            return "all"
        return same_sides([round(side) for side in self.size]) if self.known else ""


@dataclass(frozen=True)
class Weighted:
    """A linear map inside a layer: `inputs` to `outputs` channels or features at each of `kernel`'s pixels."""

    name: str
    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    groups: int = 1


@dataclass(frozen=True)
class Collapse:
    """Two layers with nothing nonlinear between them.

    into: the single layer that computes the same, in words.
    meant: why the pair can be more than a mistake; empty if it cannot.
    """

    first: str
    second: str
    into: str
    meant: str


@dataclass
class Mark:
    """Facts about the values in one piece of memory.

    last: the layer whose output this is but for affine changes; None once something nonlinear, or a second branch, came
    in between. kept: whether autograd keeps it already. noise: of the size of the data, but not made from them, such as
    a dropout mask.
    """

    field: Field | None
    last: Weighted | None = None
    kept: bool = False
    noise: bool = False


class Dataflow:
    """Follows everything that is computed from the input.

    Args:
        inputs: [B, ...].
        own: parameters and buffers, which autograd keeps at no cost.
        pixels: whether the inputs are images.

    touching: pairs of layers with nothing nonlinear between them, in the order of their meeting.
    """

    def __init__(self, inputs: Tensor, own: list[Tensor], *, pixels: bool) -> None:
        self.samples = len(inputs)
        self.touching: list[tuple[Weighted, Weighted]] = []
        seen = Field(positions=prod(inputs.shape[2:])) if pixels else None
        self._marks = {_memory(inputs): Mark(seen, kept=True)}  # the batch is counted elsewhere
        self._own = {_memory(tensor) for tensor in own}

    def field_of(self, tensor: Tensor) -> Field | None:
        mark = self._marks.get(_memory(tensor))
        return mark.field if mark else None

    def newly_kept(self, tensor: Tensor, scale: float) -> float:
        """Bytes that autograd keeps anew with this tensor, `scale` times as many where they grow with the batch."""
        memory = _memory(tensor)
        mark = self._marks.get(memory)
        if memory in self._own or (mark is not None and mark.kept):
            return 0.0
        if mark is not None:
            mark.kept = True
        grows = mark is not None and tensor.ndim > 1  # statistics of a batch norm are as many for any batch
        return tensor.untyped_storage().nbytes() * (scale if grows else 1)

    def follow(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, layer: str | None) -> None:
        """Mark the results of an operation by what is known of its inputs.

        op: ATen's name. layer: the module it happens in, None outside of all.
        """
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        marked = [(tensor, self._marks[_memory(tensor)]) for tensor in given if _memory(tensor) in self._marks]
        data = [(tensor, mark) for tensor, mark in marked if not mark.noise]
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        memories = {_memory(tensor) for tensor in given}
        in_place, op = op.endswith("_"), op.rstrip("_")
        if not data or op.startswith(_FRESH):
            for result in results:
                if _memory(result) in memories:
                    continue
                self._marks.pop(_memory(result), None)  # freed by something that was marked, and in use again
                if marked:
                    self._marks[_memory(result)] = Mark(None, noise=True)
            return
        before = data[0][1].last if len(data) == 1 else None
        last = _weighted_by(op, args, layer) if layer is not None and len(data) == 1 else None
        if last is None:  # the layer an output comes from by affine changes alone
            last = before if (op in _AFFINE and args and args[0] is data[0][0]) or op == "addcmul" else None
        elif before is not None and before.name != last.name:
            self.touching.append((before, last))
        for result in results:
            memory = _memory(result)
            if memory in memories and not in_place:  # a view: the same values
                continue
            seen = field_after(op, args, result, [(tensor, mark.field) for tensor, mark in data], self.samples)
            kept = memory in memories and memory in self._marks and self._marks[memory].kept
            self._marks[memory] = Mark(seen, last, kept)


def _weighted_by(op: str, args: tuple[Any, ...], name: str) -> Weighted | None:
    """The linear map that an ATen operation of layer `name` is; None if it is none."""
    match op:
        case "convolution" if not args[6]:  # not a transposed one
            weight, groups = args[1], args[8]
            return Weighted(name, weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]), groups)
        case "addmm":
            return Weighted(name, *args[2].shape)
        case "mm":
            return Weighted(name, *args[1].shape)
    return None


def _memory(tensor: Tensor) -> int:
    """Identify a piece of memory; views share theirs."""
    return tensor.untyped_storage()._cdata


def judge_collapses(touching: list[tuple[Weighted, Weighted]]) -> tuple[Collapse, ...]:
    """Each pair once, with what it amounts to."""
    pairs = list(dict.fromkeys(touching))
    followers, leaders = Counter(first.name for first, _ in pairs), Counter(second.name for _, second in pairs)
    return tuple(
        Collapse(first.name, second.name, _into(first, second),
                 _meant(first, second, shared=followers[first.name] > 1 or leaders[second.name] > 1))
        for first, second in pairs
    )  # fmt: skip


def _into(first: Weighted, second: Weighted) -> str:
    if not first.kernel and not second.kernel:
        return f"one linear layer {first.inputs}-{second.outputs}"
    if not second.kernel:
        return "one linear layer"
    kernel = [a + b - 1 for a, b in zip(first.kernel or (1,) * len(second.kernel), second.kernel, strict=True)]
    return f"one {sides(kernel)} convolution {first.inputs}-{second.outputs}"


def _meant(first: Weighted, second: Weighted, *, shared: bool) -> str:
    """The rank argument of the module's docstring, in words; empty where the pair gains nothing."""
    if first.groups > 1 or second.groups > 1:
        return "a separable convolution"
    pointwise = prod(first.kernel) == 1 or prod(second.kernel) == 1
    if pointwise and first.outputs < min(first.inputs * prod(first.kernel), second.outputs * prod(second.kernel)):
        return "a linear bottleneck"
    return "weights shared among several places" if shared else ""


# --- receptive fields -------------------------------------------------------------------------------------------------


def field_after(
    op: str, args: tuple[Any, ...], out: Tensor, inputs: list[tuple[Tensor, Field | None]], batch: int
) -> Field | None:
    """The field of an operation's output; None where there is none, as within regions of interest.

    Args:
        op: ATen's name without "aten::" and the underscore of in-place forms, such as "convolution".
        args: its positional arguments.
        inputs: those of its tensors that depend on the image, with their fields.
        batch: images in the batch.
    """
    if op == "mul" and len(inputs) == 2:  # a gate has a single number where the other has a map
        maps = [(tensor, field) for tensor, field in inputs if tensor.ndim == 4 and max(tensor.shape[2:]) > 1]
        inputs = maps if len(maps) == 1 else inputs
    field = _union([field for _, field in inputs])
    if field is None or op.startswith("torchvision::roi"):
        return None
    match op:
        case "convolution":
            _, weight, _, stride, _, dilation, transposed = args[:7]
            if len(stride) != 2:
                return None
            kernel = tuple(weight.shape[2:])
            if not transposed:
                return _window(field, kernel, stride, dilation, out)
            # An output position is reached by ceil(k / s) neighbours.
            size = [f + (-(-k // s) - 1) * j for f, k, s, j in zip(field.size, kernel, stride, field.jump, strict=True)]
            return _of_map(field, size, [j / s for j, s in zip(field.jump, stride, strict=True)], out)
        case "max_pool2d_with_indices" | "avg_pool2d":
            kernel = _pair(args[1])
            stride = _pair(args[2]) if len(args) > 2 and args[2] else kernel
            dilation = _pair(args[4]) if op.startswith("max") and len(args) > 4 else (1, 1)
            return _window(field, kernel, stride, dilation, out)
        case "_adaptive_avg_pool2d" | "adaptive_max_pool2d":
            # Windows as large as needed for the sides asked for: the widest spans ceil(in / out) + 1 at most.
            if out.shape[-1] == out.shape[-2] == 1:
                return replace(field, positions=1, whole=True)
            both = list(zip(args[0].shape[-2:], out.shape[-2:], strict=True))
            kernel = tuple(-(-i // o) + (i % o > 0) for i, o in both)
            return _window(field, kernel, [max(1, i // o) for i, o in both], (1, 1), out)
        case "mean" | "sum" | "amax" | "mean.dim":
            given = inputs[0][0]
            dims = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else range(given.ndim)
            # Whole maps of several positions are taken in, of [B, C, H, W] or [B, H, W, C].
            spatial = sum(given.shape[dim] > 1 or given.ndim == 4 for dim in dims) >= 2
            return replace(field, whole=True) if spatial else field
        case "upsample_nearest2d" | "upsample_bilinear2d":
            shares = [i / o for i, o in zip(args[0].shape[-2:], out.shape[-2:], strict=True)]
            more = 1 if op == "upsample_bilinear2d" else 0  # two neighbours in each direction are blended
            size = [f + more * j for f, j in zip(field.size, field.jump, strict=True)]
            return _of_map(field, size, [j * share for j, share in zip(field.jump, shares, strict=True)], out)
        case "addmm" | "mm":
            rows = out.numel() // out.shape[-1]
            return replace(field, whole=True) if rows == batch and field.positions > 1 else field
        case "bmm" | "_scaled_dot_product_flash_attention_for_cpu" | "_scaled_dot_product_flash_attention" \
            | "_scaled_dot_product_efficient_attention" | "_scaled_dot_product_cudnn_attention":  # fmt: skip
            everywhere = args[0].shape[-2] >= field.positions
            return replace(field, whole=field.whole or everywhere, known=field.known and everywhere)
        case _:
            return field


def _window(field: Field, kernel: Any, stride: Any, dilation: Any, out: Tensor) -> Field:
    size = [f + d * (k - 1) * j for f, d, k, j in zip(field.size, dilation, kernel, field.jump, strict=True)]
    jump = [j * s for j, s in zip(field.jump, stride, strict=True)]
    return _of_map(field, size, jump, out)


def _of_map(field: Field, size: list[float], jump: list[float], out: Tensor) -> Field:
    """The field with another size and jump, of a map [B, C, H, W]."""
    return replace(field, size=(size[0], size[1]), jump=(jump[0], jump[1]), positions=out.shape[-2] * out.shape[-1])


def _union(fields: list[Field | None]) -> Field | None:
    known = [field for field in fields if field is not None]
    if len(known) < len(fields) or not known:
        return None
    if len(known) == 1:
        return known[0]
    heights, widths = zip(*(field.size for field in known), strict=True)
    jumps_y, jumps_x = zip(*(field.jump for field in known), strict=True)
    return Field(
        size=(max(heights), max(widths)),
        jump=(max(jumps_y), max(jumps_x)),
        positions=max(field.positions for field in known),
        whole=any(field.whole for field in known),
        known=all(field.known for field in known),
    )


def _pair(value: Any) -> tuple[int, int]:
    first, *rest = value if isinstance(value, list | tuple) else (value,)
    return first, (rest[0] if rest else first)
