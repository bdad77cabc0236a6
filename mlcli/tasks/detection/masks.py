"""Masks of objects as COCO writes them: polygons and run-length codes (cocoapi's maskApi), to pixels and back.

A run-length code counts zeros and ones in turn, column by column, zeros first. What a model predicts is a small map
over each box: it is read bilinearly at the middle of each pixel and is 0 outside, as detectron2's paste_masks_in_image.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Segmentation = dict[str, Any] | list[list[float]]
"""A mask as in COCO: polygons (x, y, x, y, ...) in pixels of the original, or a run-length code {"size", "counts"}."""
UNCODED: dict[str, Any] = {"size": [1, 1], "counts": b"1"}
"""A mask of one pixel, which is not set."""
PASTED_TOGETHER = 1 << 19
"""Pixels at a time: a few megabytes, which fit a cache; more were no faster."""
INSIDE = 0.5  # probability from which a pixel belongs to the object (He et al. 2017, section 3.1)


def pasted(
    masks: Tensor | np.ndarray, boxes_xyxy: np.ndarray, sizes_wh: np.ndarray, coded: np.ndarray | None = None
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return the run-length codes of n objects, compressed as by `run_length`, and their areas in pixels, int64 [n].

    Args:
        masks: float [n, h, w], the probability of belonging to the object, over its box. On the CPU.
        boxes_xyxy: [n, 4] in pixels of the picture that each object is in.
        sizes_wh: int [n, 2], width and height of that picture.
        coded: bool [n], which of them need a code; the others get one that says nothing. None for all.
    """
    values, boxes = torch.as_tensor(masks), np.nan_to_num(np.asarray(boxes_xyxy, dtype=np.float64))
    first = np.maximum(boxes[:, :2].astype(np.int64), 0)  # the window of pixels that a box reaches into
    spans = np.minimum(np.ceil(boxes[:, 2:]).astype(np.int64), sizes_wh) - first
    spans[((boxes[:, 2:] <= boxes[:, :2]) | (spans <= 0)).any(axis=1)] = 0
    # Windows of about one size are pasted together: sides are rounded up to whole eighths of a power of 2, or 8 pixels.
    step = 1 << np.maximum(np.log2(np.maximum(spans, 1)).astype(np.int64) - 3, 3)
    windows_wh, group = np.unique(-(-spans // step) * step, axis=0, return_inverse=True)
    codes, areas = [UNCODED] * len(boxes), np.zeros(len(boxes), dtype=np.int64)
    for number, (width, height) in enumerate(windows_wh.tolist()):
        rows = np.flatnonzero(group.ravel() == number)
        for some in np.array_split(rows, -(-len(rows) * max(width * height, 1) // PASTED_TOGETHER)):
            inside = _inside(values[torch.from_numpy(some)], boxes[some], first[some], spans[some], (width, height))
            areas[some] = inside.sum(axis=(1, 2))
            chosen = slice(None) if coded is None else np.flatnonzero(coded[some])
            some = some[chosen]
            for row, code in zip(some.tolist(), _codes(inside[chosen], first[some], sizes_wh[some]), strict=True):
                codes[row] = code
    return codes, areas


def _inside(
    masks: Tensor, boxes_xyxy: np.ndarray, first_xy: np.ndarray, spans_wh: np.ndarray, window_wh: tuple[int, int]
) -> np.ndarray:
    """Which pixels of windows from `first_xy` on belong to objects, none beyond a span: bool [n, width, height]."""
    corners, sides = boxes_xyxy[:, :2].astype(np.float32), boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    inside, grids = [], []
    for axis, count in enumerate(window_wh):
        places = np.arange(count)
        pixels = (first_xy[:, axis, None] + places).astype(np.float32) + np.float32(0.5)
        # grid_sample's -1..1 from edge to edge
        side = np.where(sides[:, axis, None] > 0, sides[:, axis, None], 1.0).astype(np.float32)
        shares = (pixels - corners[:, axis, None]) / side
        grids.append(torch.from_numpy(shares * 2 - 1))
        inside.append(places < spans_wh[:, axis, None])
    grid = torch.empty(2, len(masks), *window_wh)
    grid[0], grid[1] = grids[0][:, :, None], grids[1][:, None]
    values = functional.grid_sample(masks[:, None].float(), grid.permute(1, 2, 3, 0), align_corners=False)[:, 0]
    return (values >= INSIDE).numpy() & inside[0][:, :, None] & inside[1][:, None]


def _codes(inside: np.ndarray, first_xy: np.ndarray, sizes_wh: np.ndarray) -> list[dict[str, Any]]:
    """Return COCO's compressed codes of pictures that are set only in a window of them.

    inside: bool [n, w, h], the windows, column by column; first_xy: int64 [n, 2], where they begin.
    """
    if not len(inside):
        return []
    above = np.zeros((*inside.shape[:2], inside.shape[2] + 1), dtype=bool)
    above[..., 1:] = inside
    changes = above.copy()  # whether a pixel differs from the one above it, down to the one below the window
    changes[..., :-1] ^= inside
    line, row = np.divmod(np.flatnonzero(changes), changes.shape[2])
    owner, column = np.divmod(line, changes.shape[1])
    width, height = sizes_wh.astype(np.int64).T
    place = (first_xy[owner, 0] + column) * height[owner] + first_xy[owner, 1] + row
    # A run that goes on from the foot of one column to the head of the next does not end there.
    goes_on = (place[1:] == place[:-1]) & (owner[1:] == owner[:-1])
    ends = place < (width * height)[owner]
    ends[1:] &= ~goes_on
    ends[:-1] &= ~goes_on
    owner, place = owner[ends], place[ends]
    last = np.bincount(owner, minlength=len(inside)).cumsum() + np.arange(len(inside))  # where each one's runs end
    until = np.empty(len(place) + len(inside), dtype=np.int64)
    until[np.arange(len(place)) + owner], until[last] = place, width * height
    starts = np.concatenate([[0], last[:-1] + 1])
    counts = np.diff(until, prepend=0)
    counts[starts] = until[starts]
    number = np.arange(len(counts)) - np.repeat(starts, np.diff(last, prepend=-1))  # of a run within its code
    text, ends_at = _compressed(counts, number)
    bounds = [0, *ends_at[last].tolist()]
    sizes = zip(bounds[:-1], bounds[1:], sizes_wh.tolist(), strict=True)
    return [{"size": [high, wide], "counts": text[begin:end]} for begin, end, (wide, high) in sizes]


def _compressed(counts: np.ndarray, number: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Return the text of run lengths and where each one's ends, as cocoapi's rleToString: five bits to a letter, the
    lowest first; from the fourth of a code on, what is written is the difference from the last but one.

    counts: int64 [n]; number: int64 [n], the place of each in its code, which begins at 0.
    """
    left = counts.copy()
    later = number > 2
    left[later] -= counts[np.flatnonzero(later) - 2]
    letters, written, goes_on = [], [], np.ones(len(counts), dtype=bool)
    while goes_on.any():
        bits = left & 31
        left = left >> 5
        written.append(goes_on)
        goes_on = goes_on & (left != np.where(bits & 16, -1, 0))
        letters.append((bits | np.where(goes_on, 32, 0)) + 48)
    used = np.stack(written, axis=1)
    return np.stack(letters, axis=1)[used].astype(np.uint8).tobytes(), used.sum(axis=1).cumsum()


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
