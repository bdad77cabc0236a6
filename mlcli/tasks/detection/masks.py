"""Masks of detections: from a small map over each box to pixels of the picture, and to COCO's run-length code.

The small map is read bilinearly at the middle of each pixel and is 0 outside, as detectron2's paste_masks_in_image.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

INSIDE = 0.5  # probability from which a pixel belongs to the object (He et al. 2017, section 3.1)


def paste(mask: Tensor, box_xyxy: Tensor, height: int, width: int) -> np.ndarray:
    """One object's pixels: bool [height, width].

    Args:
        mask: float [h, w], the probability of belonging to the object, over its box.
        box_xyxy: float [4], in pixels of the picture.
    """
    canvas = np.zeros((height, width), dtype=bool)
    left, top, right, bottom = box_xyxy.tolist()
    first_x, end_x = max(0, int(left)), min(width, int(np.ceil(right)))
    first_y, end_y = max(0, int(top)), min(height, int(np.ceil(bottom)))
    if first_x >= end_x or first_y >= end_y or right <= left or bottom <= top:
        return canvas
    columns, rows = torch.arange(first_x, end_x), torch.arange(first_y, end_y)
    x = (columns + 0.5 - left) / (right - left) * 2 - 1  # grid_sample's -1..1 from edge to edge
    y = (rows + 0.5 - top) / (bottom - top) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    inside = functional.grid_sample(mask[None, None].float(), grid[None].float(), align_corners=False)[0, 0] >= INSIDE
    canvas[first_y:end_y, first_x:end_x] = inside.numpy()
    return canvas


def run_length(mask: np.ndarray) -> dict[str, Any]:
    """bool [H, W] -> COCO's compressed run-length code."""
    from faster_coco_eval.core import mask as coco

    return coco.encode(np.asfortranarray(mask, dtype=np.uint8))
