"""Receptive fields: which part of the image a position of a feature map looks at, followed operation by operation.

Through a window of kernel k, stride s and dilation d the field grows by `d (k - 1) jump` pixels, and neighbours move
`s` times as far apart (Araujo, Norris & Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks").
Where branches meet, the larger field counts. Two things that see the whole image are left out, as is the custom: the
statistics of normalisation layers, and gates of one number per channel (squeeze-and-excitation, Hu et al. 2018).
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Field:
    """What one position of a feature map depends on.

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


def field_after(
    op: str, args: tuple, out: Tensor, inputs: list[tuple[Tensor, Field | None]], batch: int
) -> Field | None:
    """The field of an operation's output; None where there is none, as within regions of interest.

    Args:
        op: ATen's name without "aten::" and the underscore of in-place forms, such as "convolution".
        args: its positional arguments.
        inputs: those of its tensors that depend on the image, with their fields.
        batch: images in the batch.
    """
    if op == "mul" and len(inputs) == 2:
        inputs = _without_gate(inputs)
    field = _union([field for _, field in inputs])
    if field is None or op.startswith("torchvision::roi"):
        return None
    match op:
        case "convolution":
            _, weight, _, stride, _, dilation, transposed = args[:7]
            if len(stride) != 2:
                return None
            kernel = tuple(weight.shape[2:])
            return (
                _enlarged(field, kernel, stride, out) if transposed else _window(field, kernel, stride, dilation, out)
            )
        case "max_pool2d_with_indices" | "avg_pool2d":
            kernel = _pair(args[1])
            stride = _pair(args[2]) if len(args) > 2 and args[2] else kernel
            dilation = _pair(args[4]) if op.startswith("max") and len(args) > 4 else (1, 1)
            return _window(field, kernel, stride, dilation, out)
        case "_adaptive_avg_pool2d" | "adaptive_max_pool2d":
            return _adaptive(field, args[0], out)
        case "mean" | "sum" | "amax" | "mean.dim":
            return replace(field, whole=True) if _spatial(args, inputs[0][0]) else field
        case "upsample_nearest2d" | "upsample_bilinear2d":
            return _upsampled(field, args[0], out, op)
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


def _enlarged(field: Field, kernel: Any, stride: Any, out: Tensor) -> Field:
    """Through a transposed convolution: an output position is reached by ceil(k / s) neighbours."""
    size = [f + (-(-k // s) - 1) * j for f, k, s, j in zip(field.size, kernel, stride, field.jump, strict=True)]
    jump = [j / s for j, s in zip(field.jump, stride, strict=True)]
    return _of_map(field, size, jump, out)


def _adaptive(field: Field, given: Tensor, out: Tensor) -> Field:
    """Windows as large as needed for the sides asked for: the widest of them spans ceil(in / out) + 1 at most."""
    if out.shape[-1] == out.shape[-2] == 1:
        return replace(field, positions=1, whole=True)
    sides = list(zip(given.shape[-2:], out.shape[-2:], strict=True))
    kernel = [-(-i // o) + (i % o > 0) for i, o in sides]
    stride = [max(1, i // o) for i, o in sides]
    return _window(field, kernel, stride, (1, 1), out)


def _upsampled(field: Field, given: Tensor, out: Tensor, op: str) -> Field:
    shares = [i / o for i, o in zip(given.shape[-2:], out.shape[-2:], strict=True)]
    jump = [j * share for j, share in zip(field.jump, shares, strict=True)]
    more = 1 if op == "upsample_bilinear2d" else 0  # two neighbours in each direction are blended
    size = [f + more * j for f, j in zip(field.size, field.jump, strict=True)]
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


def _without_gate(inputs: list[tuple[Tensor, Field | None]]) -> list[tuple[Tensor, Field | None]]:
    """Without the one that has a single number where the other has a map."""
    maps = [(tensor, field) for tensor, field in inputs if tensor.ndim == 4 and max(tensor.shape[2:]) > 1]
    return maps if len(maps) == 1 else inputs


def _spatial(args: tuple, given: Tensor) -> bool:
    """Whether a mean over these dimensions takes in whole maps of several positions, [B, C, H, W] or [B, H, W, C]."""
    dims = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else range(given.ndim)
    return sum(given.shape[dim] > 1 or given.ndim == 4 for dim in dims) >= 2


def _pair(value: Any) -> Pair:
    first, *rest = value if isinstance(value, list | tuple) else (value,)
    return first, (rest[0] if rest else first)
