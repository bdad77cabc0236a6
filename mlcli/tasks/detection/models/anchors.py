"""Anchors: boxes laid out in advance, and the coding of boxes relative to them.

Default boxes: SSD (Liu et al. 2016, arXiv:1512.02325), section 2.2. k-means on IoU: YOLO9000 (Redmon & Farhadi 2017,
arXiv:1612.08242), section 2. Deltas from an anchor (R-CNN, SSD, YOLOv3's sizes): Girshick et al. 2014
(arXiv:1311.2524), appendix C; variances as in SSD's code, which torchvision calls weights (1 / variance). Distances
from a point, in strides: FCOS (Tian et al. 2019, arXiv:1904.01355), section 3.1.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mlcli.errors import DataError
from mlcli.tasks.detection.boxes import TINY

MAX_ROUNDS = 300  # of k-means; some dozens are usual
RESTARTS = 5  # k-means ends in the nearest of many optima
MIN_RECALL_IOU = 0.5  # an anchor that overlaps a box by less is of no help to it

VARIANCES = (0.1, 0.1, 0.2, 0.2)
"""Of centre x, y and log width, height: deltas of matched anchors get about unit spread (Fast R-CNN's 10, 10, 5, 5)."""
MAX_LOG_SCALE = math.log(1000 / 16)  # as in Detectron: a box of 16 pixels may grow to 1000, exp never overflows


def grid_points(height: int, width: int, stride: float = 1.0) -> Tensor:
    """Return the centres of a map's cells, row by row: float32 [height * width, 2] in pixels, xy."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1).float() * stride


def cell_shapes(scale: float, following: float, ratios: Sequence[float]) -> Tensor:
    """Return width and height of SSD's boxes in a cell, float32 [2 + 2 * ratios, 2].

    First the square of this level's scale, and the one between it and the next level's (the root of their product);
    then for each ratio r the box r times as wide as high and the one r times as high as wide.
    """
    between = (scale * following) ** 0.5
    shapes = [(scale, scale), (between, between)]
    for ratio in ratios:
        root = ratio**0.5
        shapes += [(scale * root, scale / root), (scale / root, scale * root)]
    return torch.tensor(shapes)


def default_boxes(
    image_size: tuple[int, int],
    feature_sizes: Sequence[tuple[int, int]],
    ratios: Sequence[Sequence[float]],
    min_scale: float = 0.2,
    max_scale: float = 0.9,
) -> Tensor:
    """Lay out SSD's boxes for maps from fine to coarse: float32 [sum of h * w * (2 + 2 * ratios), 4] in pixels, xyxy.

    Level k has the scale s_k, evenly spaced from `min_scale` to `max_scale`, a share of the picture's width and height.
    Not clipped.

    Args:
        image_size: (height, width) in pixels.
        feature_sizes: (height, width) of each map in cells.
        ratios: of each level, above 1; such as [[2], [2, 3], [2]].
    """
    levels = len(feature_sizes)
    scales = torch.linspace(min_scale, max_scale, levels).tolist() if levels > 1 else [min_scale]
    scales.append(1.0)  # what the last level's second square lies between, as in SSD's code
    whole = torch.tensor([image_size[1], image_size[0]], dtype=torch.float32)
    boxes = []
    for level, (height, width) in enumerate(feature_sizes):
        centres = grid_points(height, width)[:, None] / torch.tensor([width, height])
        half = cell_shapes(scales[level], scales[level + 1], ratios[level]) / 2
        boxes.append((torch.cat([centres - half, centres + half], dim=-1) * whole.repeat(2)).flatten(0, 1))
    return torch.cat(boxes)


def kmeans_anchors(sizes_wh: Tensor, k: int, seed: int = 0) -> tuple[Tensor, float, float]:
    """Fit the k sizes that boxes of a data set overlap best, both laid on one centre; a function of the seed.

    Args:
        sizes_wh: [N, 2], widths and heights of the training boxes in pixels of the model's input; those without area
            are passed over.

    Returns:
        sizes float32 [k, 2] from small to large area, the mean over boxes of the IoU with their best one, and the share
        of boxes whose best one overlaps them by 0.5 or more.

    Raises:
        DataError: there is no box with an area.
    """
    sizes = sizes_wh.double().cpu().numpy()
    sizes = sizes[(sizes > 0).all(axis=1)]
    if not len(sizes):
        raise DataError("no box to fit anchors to", where="training split", fix="train on images that show objects")
    fits = [_kmeans(sizes, k, np.random.default_rng([seed, restart])) for restart in range(RESTARTS)]
    best_ious = [_size_ious(sizes, anchors).max(axis=1) for anchors in fits]
    chosen = int(np.argmax([ious.mean() for ious in best_ious]))
    anchors, ious = fits[chosen], best_ious[chosen]
    anchors = anchors[anchors.prod(axis=1).argsort(kind="stable")]
    return torch.from_numpy(anchors).float(), float(ious.mean()), float((ious >= MIN_RECALL_IOU).mean())


def _kmeans(sizes: np.ndarray, k: int, random: np.random.Generator) -> np.ndarray:
    """k-means with the distance 1 - IoU, from centres spread out as k-means++ does (Arthur & Vassilvitskii 2007)."""
    anchors = sizes[random.integers(len(sizes))][None]
    while len(anchors) < k:
        distance = 1 - _size_ious(sizes, anchors).max(axis=1)
        total = distance.sum()
        share = distance / total if total > 0 else None  # None: fewer different sizes than k, so some come twice
        anchors = np.concatenate([anchors, sizes[random.choice(len(sizes), p=share)][None]])
    nearest = None
    for _ in range(MAX_ROUNDS):
        before, nearest = nearest, _size_ious(sizes, anchors).argmax(axis=1)
        if before is not None and (before == nearest).all():
            break
        members = np.bincount(nearest, minlength=k)[:, None]
        sums = np.stack([np.bincount(nearest, weights=sizes[:, side], minlength=k) for side in (0, 1)], axis=1)
        anchors = np.where(members > 0, sums / np.maximum(members, 1), anchors)
    return anchors


def _size_ious(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU of boxes that share a centre: [N, 2], [k, 2] -> [N, k]"""
    common = np.minimum(sizes[:, None], anchors).prod(axis=2)
    return common / (sizes.prod(axis=1)[:, None] + anchors.prod(axis=1) - common)


# --- coding of boxes --------------------------------------------------------------------------------------------------


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


def decode_ltrb(distances: Tensor, points_xy: Tensor, strides: Tensor | float) -> Tensor:
    """Distances to left, top, right, bottom [..., 4] in strides from points -> boxes xyxy [..., 4].

    Args:
        points_xy: [..., 2], where the predictions stand, in pixels.
        strides: [..., 1] of each point, or one for all, in pixels.
    """
    low_high = distances * strides
    return torch.cat([points_xy - low_high[..., :2], points_xy + low_high[..., 2:]], dim=-1)


def encode_ltrb(boxes_xyxy: Tensor, points_xy: Tensor, strides: Tensor | float) -> Tensor:
    """The inverse of `decode_ltrb`: boxes [..., 4] -> distances [..., 4], negative where a point lies outside."""
    return torch.cat([points_xy - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points_xy], dim=-1) / strides


def _centre_size(boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return (low + high) / 2, (high - low).clamp(min=TINY)  # rows without area get large but finite deltas


def _like(values: Sequence[float], tensor: Tensor) -> Tensor:
    # Filled there, not copied there: each step would wait for the copy, and no CUDA graph can hold it.
    return torch.stack([tensor.new_full((), value) for value in values])
