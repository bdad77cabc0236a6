"""Layers that collapse into their neighbour: two linear maps with nothing nonlinear between them are one linear map.

W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2), and likewise two convolutions, with a batch norm, an average pooling or
a dropout in between or not. Such a pair can still be meant: a narrow middle bounds the rank of the product (the linear
bottleneck of MobileNetV2, Sandler et al. 2018, arXiv:1801.04381), groups leave weights out (depthwise-separable
convolutions, Chollet 2017, arXiv:1610.02357), and a layer that serves several places shares its weights among them
(feature pyramids, Lin et al. 2017, arXiv:1612.03144).
"""

from collections import Counter
from dataclasses import dataclass
from math import prod


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


def weighted_by(op: str, args: tuple, name: str) -> Weighted | None:
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
    sides = [a + b - 1 for a, b in zip(first.kernel or (1,) * len(second.kernel), second.kernel, strict=True)]
    return f"one {'x'.join(map(str, sides))} convolution {first.inputs}-{second.outputs}"


def _meant(first: Weighted, second: Weighted, *, shared: bool) -> str:
    """The rank argument of the module's docstring, in words; empty where the pair gains nothing."""
    if first.groups > 1 or second.groups > 1:
        return "a separable convolution"
    pointwise = prod(first.kernel) == 1 or prod(second.kernel) == 1
    if pointwise and first.outputs < min(first.inputs * prod(first.kernel), second.outputs * prod(second.kernel)):
        return "a linear bottleneck"
    return "weights shared among several places" if shared else ""
