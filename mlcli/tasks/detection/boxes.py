"""Boxes: their formats, area, clipping, placement in a letterboxed picture, and how much two of them overlap.

IoU (Jaccard 1901), GIoU (Rezatofighi et al. 2019, arXiv:1902.09630), DIoU and CIoU (Zheng et al. 2020,
arXiv:1911.08287). Boxes are float [..., 4]; a box without area overlaps nothing by 0, never by NaN, and all gradients
are finite.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from mlcli.tasks.detection.arrays import placement as arrays_placement

Format = Literal["xyxy", "xywh", "cxcywh"]
"""Corners; left, top, width, height (COCO's); centre, width, height."""
FORMATS: tuple[Format, ...] = get_args(Format)
Overlap = Literal["iou", "giou", "diou", "ciou"]
Fit = Literal["pad", "stretch"]

TINY = 1e-6  # pixels; smaller sides have no aspect ratio worth a gradient


def convert(boxes: Tensor, source: Format, target: Format) -> Tensor:
    """Convert boxes [..., 4] from one format to another. `convert(convert(b, s, t), t, s) == b`

    Raises ValueError for a format that is not one of `Format`.
    """
    for name in (source, target):
        if name not in FORMATS:
            raise ValueError(f"unknown box format {name!r}: choose one of {', '.join(FORMATS)}")
    if source == target:
        return boxes
    first, second = boxes[..., :2], boxes[..., 2:]
    match source:
        case "xyxy":
            low, size = first, second - first
        case "xywh":
            low, size = first, second
        case "cxcywh":
            low, size = first - second / 2, second
    match target:
        case "xyxy":
            return torch.cat([low, low + size], dim=-1)
        case "xywh":
            return torch.cat([low, size], dim=-1)
        case "cxcywh":
            return torch.cat([low + size / 2, size], dim=-1)


def area(boxes_xyxy: Tensor) -> Tensor:
    """[..., 4] -> [...] in square pixels; 0 where corners are swapped. Halves and integers are counted as float32."""
    width, height = (_wide(boxes_xyxy)[..., 2:] - _wide(boxes_xyxy)[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def clip(boxes_xyxy: Tensor, height: float, width: float) -> Tensor:
    """Clip boxes [..., 4] to a picture; a box wholly outside becomes one without area."""
    x, y = boxes_xyxy[..., 0::2].clamp(0, width), boxes_xyxy[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def placement(sizes_wh: Tensor, image_size: Sequence[int], fit: Fit) -> tuple[Tensor, Tensor]:
    """`mlcli.tasks.detection.arrays.placement` of tensors, on their device."""
    scale, shift = arrays_placement(sizes_wh.cpu().numpy(), image_size, fit)
    return torch.from_numpy(scale).to(sizes_wh.device), torch.from_numpy(shift).to(sizes_wh.device)


@torch.no_grad()
def iou_matrix(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Intersection over union of each with each: [..., N, 4], [..., M, 4] -> [..., N, M], 0 to 1, without a gradient.

    What `overlap` gives, to the bit. Here a coordinate at a time and in place, for there may be millions of pairs: a
    CPU takes a fifth of the time.
    """
    a, b = _wide(a_xyxy), _wide(b_xyxy)
    a_left, a_top, a_right, a_bottom = (side[..., :, None] for side in a.unbind(-1))
    b_left, b_top, b_right, b_bottom = (side.contiguous()[..., None, :] for side in b.unbind(-1))
    common = torch.minimum(a_right, b_right).sub_(torch.maximum(a_left, b_left)).clamp_(min=0)
    common.mul_(torch.minimum(a_bottom, b_bottom).sub_(torch.maximum(a_top, b_top)).clamp_(min=0))
    union = (area(a)[..., :, None] + area(b)[..., None, :]).sub_(common)
    return common.div_(union.clamp_(min=torch.finfo(union.dtype).tiny)).nan_to_num_(nan=0.0)


def overlap_matrix(a_xyxy: Tensor, b_xyxy: Tensor, kind: Overlap = "iou") -> Tensor:
    """`overlap` of each with each: [..., N, 4], [..., M, 4] -> [..., N, M]"""
    if kind == "iou":
        return iou_matrix(a_xyxy, b_xyxy)
    return overlap(a_xyxy[..., :, None, :], b_xyxy[..., None, :, :], kind)


def overlap(a_xyxy: Tensor, b_xyxy: Tensor, kind: Overlap = "iou") -> Tensor:
    """Measure how much boxes agree, pair by pair, broadcasting: [..., 4], [..., 4] -> [...], 1 for equal ones.

    * iou: 0 to 1, and flat at 0 wherever they are apart;
    * giou: minus the share of the hull (the smallest box around both) that neither fills; above -1;
    * diou: minus the squared distance of the centres in hull diagonals; above -1;
    * ciou: diou minus a penalty for another aspect ratio.

    Boxes of half precision or integers are computed as float32: squares of pixels overflow a half.
    """
    a, b = _wide(a_xyxy), _wide(b_xyxy)
    common = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = common[..., 0] * common[..., 1]
    union = area(a) + area(b) - intersection
    iou = _share(intersection, union)
    if kind == "iou":
        return iou
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    if kind == "giou":
        hull_area = hull[..., 0] * hull[..., 1]
        return iou - _share(hull_area - union, hull_area)
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    diou = iou - _share(apart.square().sum(-1), hull.square().sum(-1))
    if kind == "diou":
        return diou
    v = 4 / math.pi**2 * (_angle(a) - _angle(b)).square()  # equations 8 to 11
    alpha = _share(v, 1 - iou + v).detach()  # a weight, through which no gradient flows
    return diou - alpha * v


def _angle(boxes_xyxy: Tensor) -> Tensor:
    """arctan(width / height)"""
    width, height = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=TINY).unbind(-1)  # atan2(0, 0) has no slope
    return torch.atan2(width, height)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 where there is no whole. The inner `where` keeps 0 / 0 out of the gradient too."""
    there = whole > 0
    return torch.where(there, part / torch.where(there, whole, 1.0), 0.0)


def _wide(boxes: Tensor) -> Tensor:
    return boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()
