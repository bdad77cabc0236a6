"""Boxes as NumPy arrays: where pictures lie in the model's input, and overlaps. No torch in here."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Found(NamedTuple):
    """`mlcli.tasks.detection.targets.Detections` as arrays."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None


def placement(sizes_wh: np.ndarray, image_size: Sequence[int], fit: str) -> tuple[np.ndarray, np.ndarray]:
    """Return where pictures of any size lie in the model's input: `input_xy == original_xy * scale + shift`.

    The same arithmetic, to the pixel, as `mlcli.data.decode.Preparation`: pad keeps the aspect ratio up to the rounding
    of the shorter side, and centres (letterbox); stretch fills.

    Args:
        sizes_wh: [..., 2], width and height of the upright originals in pixels.
        image_size: (height, width) of the input.
        fit: "pad" or "stretch".

    Returns scale and shift, float64 [..., 2], for x and y.
    """
    sizes = np.asarray(sizes_wh, dtype=np.float64)
    inside = np.array([image_size[1], image_size[0]], dtype=np.float64)
    if fit == "stretch":
        return inside / sizes, np.zeros_like(sizes)
    smaller = (inside / sizes).min(axis=-1, keepdims=True)
    resized = np.maximum(np.round(sizes * smaller), 1)
    return resized / sizes, np.floor((inside - resized) / 2)


def iou_of_each(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Intersection over union of each with each: [N, 4], [M, 4] -> [N, M]; a box without area overlaps nothing."""
    common = common_area(a_xyxy, b_xyxy)
    union = areas(a_xyxy)[:, None] + areas(b_xyxy) - common
    return np.divide(common, union, out=np.zeros_like(union), where=union > 0)


def common_area(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Area that boxes have in common, each with each: [N, 4], [M, 4] -> [N, M]."""
    a, b = a_xyxy[:, None], b_xyxy[None]
    return np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(axis=-1)


def areas(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Area of each box: [N, 4] -> [N]."""
    return np.clip(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0, None).prod(axis=-1)
