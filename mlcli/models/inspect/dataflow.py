"""What happens to a model's input on its way through, tensor operation by operation.

For each piece of memory that depends on the input it is known what of the image it sees, which layer it comes from but
for affine changes, and whether autograd keeps it. Memory is told apart by its storage, so views and operations in place
come out right.

So layers are found that collapse into their neighbour: two linear maps with nothing nonlinear between them are one,
W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2), and likewise two convolutions, with a batch norm, an average pooling or
a dropout in between or not. Such a pair can still be meant: a narrow middle bounds the rank of the product (the linear
bottleneck of MobileNetV2, Sandler et al. 2018, arXiv:1801.04381), groups leave weights out (depthwise-separable
convolutions, Chollet 2017, arXiv:1610.02357), and a layer that serves several places shares its weights among them
(feature pyramids, Lin et al. 2017, arXiv:1612.03144).
"""

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from mlcli.models.inspect.receptive import Field, field_after
from mlcli.text import sides

# Affine in their first tensor, so that a linear layer before them and one behind them still make one linear layer.
_AFFINE = {
    *("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update"),
    *("avg_pool2d", "_adaptive_avg_pool2d", "mean", "sum", "upsample_nearest2d", "upsample_bilinear2d"),
    *("constant_pad_nd", "clone", "_to_copy", "neg", "add", "sub", "mul", "div", "addcmul", "native_dropout"),
}
_FRESH = ("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_")


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
    """What is known of the values in one piece of memory.

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

    def follow(self, op: str, args: tuple, kwargs: dict[str, Any], out: Any, layer: str | None) -> None:
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
        last = self._last(op, args, data, layer)
        for result in results:
            memory = _memory(result)
            if memory in memories and not in_place:  # a view: the same values
                continue
            seen = field_after(op, args, result, [(tensor, mark.field) for tensor, mark in data], self.samples)
            kept = memory in memories and memory in self._marks and self._marks[memory].kept
            self._marks[memory] = Mark(seen, last, kept)

    def _last(self, op: str, args: tuple, data: list[tuple[Tensor, Mark]], layer: str | None) -> Weighted | None:
        """The layer an operation's output comes from by affine changes alone; notes two layers that touch."""
        before = data[0][1].last if len(data) == 1 else None
        here = _weighted_by(op, args, layer) if layer is not None and len(data) == 1 else None
        if here is not None:
            if before is not None and before.name != here.name:
                self.touching.append((before, here))
            return here
        return before if (op in _AFFINE and args and args[0] is data[0][0]) or op == "addcmul" else None


def _weighted_by(op: str, args: tuple, name: str) -> Weighted | None:
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
    """Tells pieces of memory apart; views share theirs."""
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
