"""What a network says about a box: deltas from an anchor (R-CNN, SSD, YOLOv3's sizes) or distances from a point (FCOS).

Deltas: Girshick et al. 2014 (arXiv:1311.2524), appendix C; variances as in SSD's code, which torchvision calls weights
(1 / variance). Distances: Tian et al. 2019 (arXiv:1904.01355), section 3.1, in strides.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

VARIANCES = (0.1, 0.1, 0.2, 0.2)
"""Of centre x, y and log width, height: deltas of matched anchors get about unit spread (Fast R-CNN's 10, 10, 5, 5)."""
MAX_LOG_SCALE = math.log(1000 / 16)  # as in Detectron: a box of 16 pixels may grow to 1000, exp never overflows
TINY = 1e-6  # pixels; rows without area (padding) get large but finite deltas


def encode(boxes_xyxy: Tensor, anchors_xyxy: Tensor, variances: Sequence[float] = VARIANCES) -> Tensor:
    """Boxes as seen from anchors: [..., 4], [..., 4] -> (dx, dy, dw, dh) [..., 4]. `decode(encode(b, a), a) == b`

    That holds for boxes up to 62.5 times as wide or high as their anchor.
    """
    centre, size = _centre_size(boxes_xyxy)
    anchor_centre, anchor_size = _centre_size(anchors_xyxy)
    shift = (centre - anchor_centre) / anchor_size
    return torch.cat([shift, (size / anchor_size).log()], dim=-1) / _like(variances, shift)


def decode(deltas: Tensor, anchors_xyxy: Tensor, variances: Sequence[float] = VARIANCES) -> Tensor:
    """Deltas (dx, dy, dw, dh) [..., 4] from anchors [..., 4] -> boxes xyxy [..., 4], not clipped to a picture."""
    anchor_centre, anchor_size = _centre_size(anchors_xyxy)
    scaled = deltas * _like(variances, deltas)
    centre = anchor_centre + scaled[..., :2] * anchor_size
    half = scaled[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * anchor_size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def encode_ltrb(boxes_xyxy: Tensor, points_xy: Tensor, strides: Tensor | float) -> Tensor:
    """Distances to left, top, right, bottom [..., 4] in strides; negative where the point is outside.

    Args:
        boxes_xyxy: [..., 4] in pixels.
        points_xy: [..., 2], where the predictions stand, in pixels.
        strides: [..., 1] of each point, or one for all, in pixels.
    """
    return torch.cat([points_xy - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points_xy], dim=-1) / strides


def decode_ltrb(distances: Tensor, points_xy: Tensor, strides: Tensor | float) -> Tensor:
    """`decode_ltrb(encode_ltrb(b, p, s), p, s) == b`, shapes as there."""
    low_high = distances * strides
    return torch.cat([points_xy - low_high[..., :2], points_xy + low_high[..., 2:]], dim=-1)


def _centre_size(boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return (low + high) / 2, (high - low).clamp(min=TINY)


def _like(values: Sequence[float], tensor: Tensor) -> Tensor:
    return torch.tensor(values, dtype=tensor.dtype, device=tensor.device)
