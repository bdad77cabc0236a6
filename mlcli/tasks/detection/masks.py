"""Masks of objects as COCO writes them: polygons and run-length codes (cocoapi's maskApi), to pixels and back.

A run-length code counts zeros and ones in turn, column by column, zeros first. What a model predicts is a small map
over each box: it is read bilinearly at the middle of each pixel and is 0 outside, as detectron2's paste_masks_in_image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Segmentation = dict[str, Any] | list[list[float]]
"""A mask as in COCO: polygons (x, y, x, y, ...) in pixels of the original, or a run-length code {"size", "counts"}."""
INSIDE = 0.5  # probability from which a pixel belongs to the object (He et al. 2017, section 3.1)


def paste(mask: Tensor | np.ndarray, box_xyxy: Sequence[float], height: int, width: int) -> np.ndarray:
    """One object's pixels: bool [height, width].

    Args:
        mask: float [h, w], the probability of belonging to the object, over its box.
        box_xyxy: in pixels of the picture.
    """
    canvas = np.zeros((height, width), dtype=bool)
    left, top, right, bottom = map(float, box_xyxy)
    first_x, end_x = max(0, int(left)), min(width, int(np.ceil(right)))
    first_y, end_y = max(0, int(top)), min(height, int(np.ceil(bottom)))
    if first_x >= end_x or first_y >= end_y or right <= left or bottom <= top:
        return canvas
    columns, rows = torch.arange(first_x, end_x), torch.arange(first_y, end_y)
    x = (columns + 0.5 - left) / (right - left) * 2 - 1  # grid_sample's -1..1 from edge to edge
    y = (rows + 0.5 - top) / (bottom - top) * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    values = torch.as_tensor(mask)[None, None].float()
    inside = functional.grid_sample(values, grid[None].float(), align_corners=False)[0, 0] >= INSIDE
    canvas[first_y:end_y, first_x:end_x] = inside.numpy()
    return canvas


def run_length(mask: np.ndarray) -> dict[str, Any]:
    """bool [H, W] -> COCO's compressed run-length code."""
    from faster_coco_eval.core import mask as coco

    return coco.encode(np.asfortranarray(mask, dtype=np.uint8))


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """bool [H, W] -> {"size": [H, W], "counts": [...]}, the readable form of the code."""
    columns = np.concatenate([[False], mask.ravel(order="F"), [False]])
    edges = np.flatnonzero(columns[1:] != columns[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    # A mask that is set in its last pixel ends with a run of no zeros.
    return {"size": list(mask.shape), "counts": (counts if counts[-1] else counts[:-1]).tolist()}


def decode(segmentation: Segmentation, height: int, width: int) -> np.ndarray:
    """Polygons or a run-length code of a picture of this size -> bool [height, width]."""
    from faster_coco_eval.core import mask as coco

    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        counts = np.asarray(segmentation["counts"])
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape((height, width), order="F")
    if isinstance(segmentation, list):
        segmentation = coco.merge(coco.frPyObjects(segmentation, height, width))
    return coco.decode(segmentation).astype(bool)


def placed(
    segmentation: Segmentation, size: np.ndarray, scale: np.ndarray, shift: np.ndarray, image_size: tuple[int, ...]
) -> np.ndarray:
    """A mask of an original of `size` (width, height), scaled and shifted (both x, y) onto an input: bool [H, W]."""
    height, width = image_size
    if isinstance(segmentation, list):
        return decode(moved(segmentation, scale, shift), height, width)
    mask = decode(segmentation, int(size[1]), int(size[0]))
    # The pixel of the original that each pixel's middle lies in.
    columns = np.floor((np.arange(width) + 0.5 - shift[0]) / scale[0]).astype(np.int64)
    rows = np.floor((np.arange(height) + 0.5 - shift[1]) / scale[1]).astype(np.int64)
    inside = ((rows >= 0) & (rows < size[1]))[:, None] & ((columns >= 0) & (columns < size[0]))
    return mask[rows.clip(0, size[1] - 1)][:, columns.clip(0, size[0] - 1)] & inside


def moved(segmentation: Segmentation, scale: np.ndarray, shift: np.ndarray) -> Segmentation:
    """scale, shift: for x and y. Run-length codes can only be scaled, to whole pixels."""
    if isinstance(segmentation, list):
        return [(np.reshape(polygon, (-1, 2)) * scale + shift).ravel().tolist() for polygon in segmentation]
    height, width = segmentation["size"]
    wanted = (round(height * scale[1]), round(width * scale[0]))
    return encode_rle(placed(segmentation, np.array([width, height]), scale, shift, wanted))


def turned(segmentation: Segmentation, orientation: int, stored: np.ndarray) -> Segmentation:
    """A mask on stored pixels (width, height), on the picture turned upright; orientations 5 to 8 of EXIF."""
    width, height = (int(side) for side in stored)
    if isinstance(segmentation, dict):
        mask = decode(segmentation, height, width)
        mask = mask[::-1] if orientation in (6, 7) else mask
        mask = mask[:, ::-1] if orientation in (7, 8) else mask
        return encode_rle(mask.T)
    polygons = []
    for polygon in segmentation:
        x, y = np.reshape(polygon, (-1, 2)).T
        y = height - y if orientation in (6, 7) else y
        x = width - x if orientation in (7, 8) else x
        polygons.append(np.column_stack([y, x]).ravel().tolist())
    return polygons


def is_sound(segmentation: Segmentation, size: np.ndarray) -> bool:
    """Whether polygons have three points at least, all finite, or the code fits the picture's size (width, height)."""
    if isinstance(segmentation, dict):
        height, width = segmentation["size"]
        counts = segmentation["counts"]
        fits = [width, height] == list(size) or not size.all()
        return fits and (not isinstance(counts, list) or sum(counts) == height * width)
    return bool(segmentation) and all(
        len(polygon) >= 6 and len(polygon) % 2 == 0 and bool(np.isfinite(polygon).all()) for polygon in segmentation
    )
