"""Large pictures looked at in overlapping tiles, and what was found in the tiles made one. No torch in here.

Slicing aided inference (Akyon et al. 2022, arXiv:2202.06934), with another rule for what is found twice. There, boxes
of a class are one object if they share much of the smaller one, which leaves an object in two halves that is longer
than twice the overlap, and makes one of a small object before a large one. Here, a box and a box of another tile are
one object if they are the same *where both tiles look*. The tile that has it farthest from its seams says where it is;
an object that no tile sees whole is the hull of its pieces. What is cut by a seam is not asked about where another
tile sees more of it: a piece of one thing often looks like another.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlcli.data.decode import PAD_VALUE
from mlcli.data.resize import resize
from mlcli.errors import ConfigError
from mlcli.tasks.detection.arrays import Found, areas, common_area, placement
from mlcli.text import plural

LEAST_SIDE, MOST_OVERLAP, MOST_TILES = 16, 0.9, 10_000
"""Pixels of a tile's longer side; share of a tile that its neighbour sees too; tiles of one picture."""
AT_ONCE = 16
"""Tiles that the model sees in one batch."""
SAME = 0.5
"""Agreement of two boxes, where both of their tiles look, from which they are one object."""
AT_SEAM = 0.02
"""Distance of a box from an inner side of its tile, in sides of the tile, up to which the object may go on beyond."""
SLACK = 0.005
"""In sides of a tile; boxes that differ by so little agree, however thin their common part is."""


class Layout(NamedTuple):
    """The T tiles of one picture, all of one size.

    origins_xy: int64 [T, 2], their left top corners in pixels of the picture.
    size_wh: int64 [2], their width and height in those pixels.
    scale, shift: float64 [2], for x and y; `input_xy == (original_xy - origin_xy) * scale + shift`.
    inner: bool [T, 4], whether the left, top, right and bottom side lies inside the picture.
    """

    origins_xy: np.ndarray
    size_wh: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    inner: np.ndarray

    @property
    def tiles_xyxy(self) -> np.ndarray:
        """int64 [T, 4]"""
        return np.concatenate([self.origins_xy, self.origins_xy + self.size_wh], axis=1)


class Tiles:
    """Look at pictures in overlapping tiles of the shape of the model's input, each brought to its size.

    A picture that is smaller than a tile is seen whole, as without tiles. Along a side that is shorter than a tile's,
    the rest of the input is grey, so that all objects are seen at one scale.

    Args:
        side: pixels of the picture along a tile's longer side.
        overlap: least share of a tile's sides that its neighbours see too, 0 to `MOST_OVERLAP`; objects up to this size
            are whole in some tile.
        image_size: height and width of the model's input.
        fit: how the model takes whole pictures, "pad" or "stretch".

    Attributes:
        count, pictures: tiles and pictures looked at so far.

    Raises ConfigError for a side or an overlap out of range.
    """

    def __init__(self, side: int, overlap: float, image_size: tuple[int, int], fit: str) -> None:
        if side < LEAST_SIDE:
            what = f"a tile of {side} pixels shows nothing"
            raise ConfigError(what, where="--tiles", fix=f"--tiles {max(image_size)} is the model's own size")
        if not 0 <= overlap <= MOST_OVERLAP:
            what = f"tiles overlap by a share from 0 to {MOST_OVERLAP}, and {overlap:g} is none"
            raise ConfigError(what, where="--overlap", fix="--overlap 0.2")
        self.overlap, self.image_size, self.fit = overlap, image_size, fit
        height, width = (max(1, round(side * one / max(image_size))) for one in image_size)
        self.size_wh = np.array([width, height])
        self.count = self.pictures = 0

    def __str__(self) -> str:
        """`24 tiles of 640x480 pixels in 2 pictures, overlapping by 20 % or more`"""
        width, height = self.size_wh.tolist()
        many = f"{plural(self.count, 'tile')} of {width}x{height} pixels in {plural(self.pictures, 'picture')}"
        return f"{many}, overlapping by {100 * self.overlap:g} % or more"

    def layout(self, width: int, height: int) -> Layout:
        """Return the tiles of a picture, evenly spread, row by row. Raises ConfigError for more than `MOST_TILES`."""
        whole = np.array([width, height])
        size, scale, shift = self.placed(whole)
        if (whole <= self.size_wh).all():
            return Layout(np.zeros((1, 2), np.int64), whole, scale, shift, np.zeros((1, 4), dtype=bool))
        step = np.maximum(1, np.floor(self.size_wh * (1 - self.overlap)))
        counts = np.ceil((whole - size) / step).astype(int) + 1
        if counts.prod() > MOST_TILES:
            fitting = math.ceil(math.sqrt(width * height / MOST_TILES) / (1 - self.overlap))
            what = f"{width}x{height} pixels would be {counts.prod():,} tiles, and {MOST_TILES:,} are the most"
            raise ConfigError(what, where="--tiles", fix=f"--tiles {fitting} or a smaller --overlap")
        xs, ys = (np.linspace(0, end, n).round().astype(np.int64) for end, n in zip(whole - size, counts, strict=True))
        origins = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
        inner = np.concatenate([origins > 0, origins + size < whole], axis=1)
        return Layout(origins, size, scale, shift, inner)

    def placed(self, sizes_wh: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the size of the tiles of pictures, and the scale and shift of each in the input: [..., 2] as sizes_wh.

        `input_xy == (original_xy - origin_xy) * scale + shift`. A picture no larger than a tile is its own only one.
        """
        size, inside = np.minimum(sizes_wh, self.size_wh), np.array(self.image_size[::-1])
        resized = np.maximum(np.round(size * inside / self.size_wh), 1)
        is_whole = (sizes_wh <= self.size_wh).all(axis=-1, keepdims=True)
        scale, shift = placement(sizes_wh, self.image_size, self.fit)
        cut_scale, cut_shift = resized / size, np.floor((inside - resized) / 2)
        return size, np.where(is_whole, scale, cut_scale), np.where(is_whole, shift, cut_shift)

    def found(self, compute: Callable[[np.ndarray], Found], pictures: Iterable[np.ndarray]) -> Found:
        """Return what was found in pictures, uint8 [H, W, 3] each, as if the model had seen each of them whole.

        compute: from uint8 [B, 3, h, w] of the model's size to what was found in each. Boxes come out in pixels of the
        whole picture's input, float64, as many for all pictures, most certain first.
        """
        each = []
        for pixels in pictures:
            height, width = pixels.shape[:2]
            layout = self.layout(width, height)
            self.count, self.pictures = self.count + len(layout.origins_xy), self.pictures + 1
            parts = [
                compute(self._inputs(pixels, layout, start)) for start in range(0, len(layout.origins_xy), AT_ONCE)
            ]
            one = merged(_joined(parts, np.concatenate), layout)
            scale, shift = (
                np.tile(part, 2) for part in placement(np.array([width, height]), self.image_size, self.fit)
            )
            each.append(one._replace(boxes_xyxy=one.boxes_xyxy * scale + shift))
        most = max(1, *(len(one.scores) for one in each))
        return _joined([_padded(one, most) for one in each], np.stack)

    def _inputs(self, pixels: np.ndarray, layout: Layout, start: int) -> np.ndarray:
        """A batch of tiles as the model takes them: uint8 [B, 3, h, w]."""
        origins = layout.origins_xy[start : start + AT_ONCE]
        inputs = np.full((len(origins), 3, *self.image_size), PAD_VALUE, dtype=np.uint8)
        width, height = np.round(layout.size_wh * layout.scale).astype(int)
        left, top = layout.shift.astype(int)
        for one, origin in zip(inputs, origins, strict=True):
            (x, y), (right, bottom) = origin.tolist(), (origin + layout.size_wh).tolist()
            resize(pixels, (x, y, right, bottom), one[:, top : top + height, left : left + width])
        return inputs


def merged(found: Found, layout: Layout) -> Found:
    """Make one of what was found in the tiles of a picture: in pixels of the picture, float64, most certain first.

    found: of T tiles, in pixels of their inputs. An object is as certain as its pieces are on average.
    Returns N objects without a first dimension; one that is not finite if an answer is not.
    """
    tile, row = np.nonzero(found.labels > 0)
    boxes = (found.boxes_xyxy[tile, row] - np.tile(layout.shift, 2)) / np.tile(layout.scale, 2)
    tiles_xyxy = layout.tiles_xyxy
    boxes = np.clip(boxes + np.tile(layout.origins_xy[tile], 2), tiles_xyxy[tile][:, [0, 1, 0, 1]],
                    tiles_xyxy[tile][:, [2, 3, 2, 3]])  # fmt: skip
    if not (np.isfinite(boxes).all() and np.isfinite(found.scores[tile, row]).all()):
        masks = None if found.masks is None else found.masks[0, :1]
        return Found(np.full((1, 4), np.nan), np.full(1, np.nan), np.ones(1, dtype=np.int64), masks)
    scores, labels = found.scores[tile, row].astype(np.float64), found.labels[tile, row]
    masks = None if found.masks is None else found.masks[tile, row]
    away = np.abs(boxes - tiles_xyxy[tile]) / np.tile(layout.size_wh, 2)
    away = np.where(layout.inner[tile], away, np.inf).min(axis=1, initial=np.inf)  # from the nearest seam
    own = ~seen_elsewhere(boxes, tile, layout)
    groups = [
        sorted((piece for piece in pieces if own[piece]), key=lambda piece: -away[piece])
        for pieces in grouped(boxes, labels, tile, away <= AT_SEAM, layout)
        if own[pieces].any()
    ]
    certain = np.array([scores[pieces].mean() for pieces in groups])
    order = np.argsort(-certain, kind="stable")
    objects = [groups[position] for position in order.tolist()]
    first = np.array([pieces[0] for pieces in objects], dtype=np.int64)
    boxes_of, masks_of = boxes[first], None if masks is None else masks[first]
    for place, pieces in enumerate(objects):
        if away[pieces[0]] <= AT_SEAM and len(pieces) > 1:
            hull = np.concatenate([boxes[pieces, :2].min(axis=0), boxes[pieces, 2:].max(axis=0)])
            boxes_of[place] = hull
            if masks is not None and masks_of is not None:
                masks_of[place] = np.max([spread(masks[piece], boxes[piece], hull) for piece in pieces], axis=0)
    return Found(boxes_of, certain[order], labels[first], masks_of)


def seen_elsewhere(boxes_xyxy: np.ndarray, tile: np.ndarray, layout: Layout) -> np.ndarray:
    """Return which boxes are cut by a seam beyond which another tile looks that sees all the rest of them: bool [N].

    boxes_xyxy: float64 [N, 4], in pixels of the picture. tile: int64 [N].
    """
    tiles_xyxy, reach = layout.tiles_xyxy, np.tile(AT_SEAM * layout.size_wh, 2)
    inward = np.array([1, 1, -1, -1])
    cut = layout.inner[tile] & (np.abs(boxes_xyxy - tiles_xyxy[tile]) <= reach)
    found = np.zeros(len(boxes_xyxy), dtype=bool)
    for other, sides in enumerate(tiles_xyxy):
        near = (np.abs(layout.origins_xy[tile] - layout.origins_xy[other]) <= layout.size_wh).all(axis=1)
        rows = np.flatnonzero(near & cut.any(axis=1))
        own = tiles_xyxy[tile[rows]]
        clear = ~layout.inner[other] | ((boxes_xyxy[rows] - sides) * inward > reach) | (own == sides)
        beyond = cut[rows] & ((own - sides) * inward > 0)
        found[rows] |= clear.all(axis=1) & beyond.any(axis=1)
    return found


def grouped(
    boxes_xyxy: np.ndarray, labels: np.ndarray, tile: np.ndarray, at_seam: np.ndarray, layout: Layout
) -> list[list[int]]:
    """Return which boxes are one object, as lists of their positions; of each tile at most one is in a list.

    The pairs that agree most are joined first; then pieces at a seam, each with the box of its class in another tile
    that it lies in for the most part.

    Args:
        boxes_xyxy: float64 [N, 4], in pixels of the picture, by tile.
        labels, tile: int64 [N].
        at_seam: bool [N], whether the object may go on beyond the tile.
    """
    slack, tiles_xyxy = SLACK * layout.size_wh, layout.tiles_xyxy
    starts = np.searchsorted(tile, np.arange(len(tiles_xyxy) + 1))
    size, pairs = np.maximum(areas(boxes_xyxy), 1e-12), list[tuple[np.ndarray, ...]]()
    for one in range(len(tiles_xyxy)):
        near = (np.abs(layout.origins_xy[one + 1 :] - layout.origins_xy[one]) <= layout.size_wh).all(axis=1)
        for other in (np.flatnonzero(near) + one + 1).tolist():
            a, b = np.arange(starts[one], starts[one + 1]), np.arange(starts[other], starts[other + 1])
            if not len(a) or not len(b):
                continue
            zone = np.concatenate([np.maximum(tiles_xyxy[one], tiles_xyxy[other])[:2],
                                   np.minimum(tiles_xyxy[one], tiles_xyxy[other])[2:]])  # fmt: skip
            value, area = (
                agreement(boxes_xyxy[a], boxes_xyxy[b], zone, slack),
                common_area(boxes_xyxy[a], boxes_xyxy[b]),
            )
            held = np.maximum(area / size[a, None] * at_seam[a, None], area / size[b] * at_seam[b])
            value = np.where(value > SAME, value, SAME * held)
            value[labels[a][:, None] != labels[b]] = 0.0
            i, j = np.nonzero(value > SAME**2)
            pairs.append((a[i], b[j], value[i, j], area[i, j]))
    if not pairs:
        return [[position] for position in range(len(boxes_xyxy))]
    i, j, value, area = (np.concatenate(column) for column in zip(*pairs, strict=True))
    order = np.lexsort((-area, -value.round(1)))  # two objects may look alike in a corner, where few pixels are common
    groups = [[position] for position in range(len(boxes_xyxy))]
    seen_by = [{number} for number in tile.tolist()]
    for first, second in zip(i[order].tolist(), j[order].tolist(), strict=True):
        if seen_by[first].isdisjoint(seen_by[second]):
            groups[first] += groups[second]
            seen_by[first] |= seen_by[second]
            for member in groups[second]:
                groups[member], seen_by[member] = groups[first], seen_by[first]
    return [group for position, group in enumerate(groups) if group[0] == position]


def agreement(a_xyxy: np.ndarray, b_xyxy: np.ndarray, zone_xyxy: np.ndarray, slack: np.ndarray) -> np.ndarray:
    """Return how much boxes [N, 4] and [M, 4] are the same inside a zone that may have no area: 0 to 1, [N, M].

    The product of the overlaps of their shadows along x and y, which is 1 for boxes that differ by no more than the
    zone cuts off, and 0 for those that are apart by more than the slack, in pixels [2].
    """
    shares = []
    for axis in (0, 1):
        low, high = zone_xyxy[axis], zone_xyxy[axis + 2]
        low_a, high_a, low_b, high_b = (
            a_xyxy[:, None, axis],
            a_xyxy[:, None, axis + 2],
            b_xyxy[:, axis],
            b_xyxy[:, axis + 2],
        )
        apart = np.maximum(low_a, low_b) - np.minimum(high_a, high_b) > slack[axis]
        low_a, high_a, low_b, high_b = (np.clip(side, low, high) for side in (low_a, high_a, low_b, high_b))
        common = np.clip(np.minimum(high_a, high_b) - np.maximum(low_a, low_b), 0, None)
        hull = np.maximum(high_a, high_b) - np.minimum(low_a, low_b)
        shares.append(np.where(apart, 0.0, (common + slack[axis]) / (hull + slack[axis])))
    return shares[0] * shares[1]


def spread(mask: np.ndarray, box_xyxy: np.ndarray, hull_xyxy: np.ndarray) -> np.ndarray:
    """Return a mask over a box, float32 [h, w], as one of the same shape over a larger box: read bilinearly at the
    middle of each cell, 0 outside."""
    weights = []
    for axis, cells in ((1, mask.shape[0]), (0, mask.shape[1])):
        low, side = box_xyxy[axis], max(box_xyxy[axis + 2] - box_xyxy[axis], 1e-9)
        middles = (np.arange(cells) + 0.5) / cells * (hull_xyxy[axis + 2] - hull_xyxy[axis]) + hull_xyxy[axis]
        there = (middles - low) / side
        place = np.clip(there * cells - 0.5, 0, cells - 1)
        tent = np.clip(1 - np.abs(place[:, None] - np.arange(cells)), 0, None)
        weights.append(tent * ((there >= 0) & (there <= 1))[:, None])
    return (weights[0] @ mask @ weights[1].T).astype(mask.dtype)


def _joined(parts: Sequence[Found], join: Callable[[Any], np.ndarray]) -> Found:
    """Make one of several by joining their boxes, scores, labels and masks."""
    boxes, scores, labels, masks = zip(*parts, strict=True)
    return Found(join(boxes), join(scores), join(labels), None if masks[0] is None else join(masks))


def _padded(found: Found, most: int) -> Found:
    """What was found, n rows each, in `most` rows, zeros at the end."""
    more = (0, most - len(found.scores))
    padded = [np.pad(rows, [more, *[(0, 0)] * (rows.ndim - 1)]) for rows in found if rows is not None]
    return Found(*padded)
