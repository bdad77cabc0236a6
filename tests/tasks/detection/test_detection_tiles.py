"""Large pictures looked at in tiles: each object is found once, whole, and where it is.

The detector of these tests answers exactly what is in its tile: objects are rectangles, each of a colour of its own.
"""

import itertools

import numpy as np
import pytest
from scipy.ndimage import find_objects

from mlcli.errors import ConfigError
from mlcli.tasks.detection.arrays import Found, common_area, iou_of_each, placement
from mlcli.tasks.detection.tiles import AT_ONCE, Layout, Tiles, agreement, merged, spread

OVERLAPS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.8)


def painted(boxes_xyxy: np.ndarray, width: int, height: int) -> np.ndarray:
    """A black picture, uint8 [H, W, 3], with rectangles in colours that say their number, from 1."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes_xyxy.tolist(), start=1):
        pixels[y1:y2, x1:x2] = (40 + number % 200, 40 + number // 200, 255)
    return pixels


def exact(inputs: np.ndarray) -> Found:
    """What is in pictures as `painted` makes them; objects of even numbers are of the second class."""
    each = []
    for red, green, blue in inputs.astype(int):
        numbers = np.where(blue == 255, red - 40 + (green - 40) * 200, 0)
        parts = enumerate(find_objects(numbers), start=1)
        each.append(
            [
                ([part[1].start, part[0].start, part[1].stop, part[0].stop], 0.5 + number / 1000, 1 + number % 2)
                for number, part in parts
                if part is not None
            ]
        )
    return stacked(each)


def stacked(each: list[list[tuple[list, float, int]]]) -> Found:
    most = 50
    boxes, scores = np.zeros((len(each), most, 4), dtype=np.float32), np.zeros((len(each), most), dtype=np.float32)
    labels = np.zeros((len(each), most), dtype=np.int64)
    for i, found in enumerate(each):
        for d, (box, score, label) in enumerate(found):
            boxes[i, d], scores[i, d], labels[i, d] = box, score, label
    return Found(boxes, scores, labels)


def apart(random: np.random.Generator, width: int, height: int, sides: tuple[int, int], tries: int) -> np.ndarray:
    """Rectangles of sides from `sides[0]` to `sides[1]` that are 2 pixels apart or more: int64 [n, 4]."""
    boxes = np.zeros((0, 4), dtype=np.int64)
    for _ in range(tries):
        w, h = random.integers(sides[0], min(sides[1], width, height) + 1, size=2).tolist()
        x, y = random.integers(0, width - w + 1), random.integers(0, height - h + 1)
        box = np.array([[x, y, x + w, y + h]])
        if not common_area(np.add(box, [[-2, -2, 2, 2]]), boxes).any():
            boxes = np.concatenate([boxes, box])
    return boxes


def in_picture(found: Found, tiles: Tiles, width: int, height: int) -> np.ndarray:
    """Boxes of the first picture in its own pixels."""
    scale, shift = placement(np.array([width, height]), tiles.image_size, tiles.fit)
    boxes = (found.boxes_xyxy[0] - np.tile(shift, 2)) / np.tile(scale, 2)
    return boxes[found.labels[0] > 0]


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize(
    "size",
    [(200, 150), (64, 64), (40, 30), (64, 200), (20, 190), (65, 65), (127, 70)],
    ids=lambda s: "x".join(map(str, s)),
)
def test_each_object_is_found_once_and_whole(size, overlap):
    """Of any size, longer than the overlap and than the tile; in pictures smaller than a tile and with ragged edges."""
    width, height = size
    boxes = apart(np.random.default_rng(width * height), width, height, (3, 100), 60)
    tiles = Tiles(64, overlap, (64, 64), "pad")
    found = tiles.found(exact, [painted(boxes, width, height)])
    told = in_picture(found, tiles, width, height)
    where = found.scores[0].argsort()[len(found.scores[0]) - len(told) :]  # scores rise with the number
    least = 1.0 if (np.array(size) <= 64).all() else 1e-6  # a small picture is resized to the input
    assert np.abs(told[where] - boxes).max() < least + 1e-6
    assert found.labels[0][where].tolist() == [1 + number % 2 for number in range(1, len(boxes) + 1)]
    assert found.scores[0][: len(told)].tolist() == sorted(found.scores[0].tolist(), reverse=True)[: len(told)]


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_objects_that_lie_over_one_another_stay_apart(overlap):
    """Boxes of one class that overlap, some inside others, as boxes alone: what each tile would see of them."""
    for seed in range(1 if overlap > 0.5 else 4):
        random = np.random.default_rng(seed)
        corners = random.uniform(0, [260, 200], size=(40, 2))
        truth = np.concatenate([corners, np.minimum(corners + random.uniform(8, 60, size=(40, 2)), [300, 240])], axis=1)
        over = np.triu(iou_of_each(truth, truth), 1) > 0.45  # a detector's own suppression leaves no such pairs
        truth = truth[~over.any(axis=0)]
        layout = Tiles(100, overlap, (100, 100), "pad").layout(300, 240)
        told = merged(seen_in(truth, layout, least=0.5), layout)
        assert len(told.scores) == len(truth)
        assert (iou_of_each(truth, told.boxes_xyxy).max(axis=1) > 0.97).all()


def seen_in(truth: np.ndarray, layout: Layout, least: float) -> Found:
    """The part of each box that lies in each tile, if it is `least` pixels wide and high; in pixels of the tile."""
    each = []
    for tile in layout.tiles_xyxy:
        part = np.clip(truth, np.tile(tile[:2], 2), np.tile(tile[2:], 2)) - np.tile(tile[:2], 2)
        there = np.flatnonzero(
            ((part[:, 2:] - part[:, :2]) >= np.minimum(least, truth[:, 2:] - truth[:, :2])).all(axis=1)
        )
        each.append([(part[t].tolist(), 0.5 + t / 1000, 1) for t in there])
    return stacked(each)


@pytest.mark.parametrize("seed", range(4))
def test_a_detector_that_is_not_exact_halves_and_doubles_nothing(seed):
    """Corners are a twentieth of the object off, otherwise in each tile, and slivers are not seen."""
    random = np.random.default_rng(seed)
    truth = apart(random, 640, 480, (20, 60), 150).astype(float)
    layout = Tiles(200, 0.2, (100, 100), "pad").layout(640, 480)
    each = []
    for tile in layout.tiles_xyxy:
        part = np.clip(truth, np.tile(tile[:2], 2), np.tile(tile[2:], 2))
        shares = (part[:, 2:] - part[:, :2]).prod(axis=1) / (truth[:, 2:] - truth[:, :2]).prod(axis=1)
        sides = np.tile(part[:, 2:] - part[:, :2], 2)
        noisy = (np.clip(part + random.uniform(-0.05, 0.05, part.shape) * sides, 0, None) - np.tile(tile[:2], 2)) / 2
        each.append([(noisy[t].tolist(), random.uniform(0.5, 1), 1) for t in np.flatnonzero(shares > 0.15)])
    told = merged(stacked(each), layout)
    assert len(told.scores) == len(truth)
    assert (iou_of_each(truth, told.boxes_xyxy).max(axis=1) > 0.75).all()


def test_tiles_cover_the_picture_and_overlap_enough():
    for (width, height), overlap in itertools.product([(4000, 3000), (641, 640), (1000, 77), (639, 1281)], OVERLAPS):
        layout = Tiles(640, overlap, (640, 640), "stretch").layout(width, height)
        assert (layout.size_wh == np.minimum([width, height], 640)).all()
        for axis, whole in enumerate((width, height)):
            starts = np.unique(layout.origins_xy[:, axis])
            assert starts[0] == 0
            assert starts[-1] + layout.size_wh[axis] == whole
            assert (np.diff(starts) <= 640 * (1 - overlap) + 1e-9).all()
        assert len(np.unique(layout.origins_xy, axis=0)) == len(layout.origins_xy)
    assert len(Tiles(640, 0.2, (640, 640), "pad").layout(4000, 3000).origins_xy) == 8 * 6


def test_tiles_have_the_shape_of_the_input_and_one_scale():
    """Along a side that is shorter than a tile's the rest is grey: an object is as large as in any other tile."""
    tiles = Tiles(320, 0.2, (96, 128), "stretch")
    assert tiles.size_wh.tolist() == [320, 240]
    shapes = []

    def compute(inputs: np.ndarray) -> Found:
        shapes.append(inputs.shape)
        assert (inputs[:, :, :28] == 128).all()
        assert (inputs[:, :, 68:] == 128).all()
        assert (inputs[:, :, 30:66] == 200).all()
        return stacked([[([0, 28, 128, 68], 0.9, 1)] for _ in inputs])

    found = tiles.found(compute, [np.full((100, 2000, 3), 200, dtype=np.uint8)])
    assert shapes == [(8, 3, 96, 128)]
    assert in_picture(found, tiles, 2000, 100).round(6).tolist() == [[0, 0, 2000, 100]]
    assert str(tiles) == "8 tiles of 320x240 pixels in 1 picture, overlapping by 20 % or more"


def test_the_model_sees_a_bounded_number_of_tiles_at_once():
    seen = []
    tiles = Tiles(64, 0.5, (32, 32), "pad")
    tiles.found(
        lambda inputs: seen.append(len(inputs)) or stacked([[]] * len(inputs)), [np.zeros((600, 600, 3), np.uint8)]
    )
    assert max(seen) == AT_ONCE
    assert sum(seen) == tiles.count == 18**2


def test_a_small_picture_is_seen_as_without_tiles():
    pixels = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)

    def compute(inputs: np.ndarray) -> Found:
        assert inputs.shape == (1, 3, 64, 64)
        assert (inputs[0, :, :13] == 128).all()
        assert (inputs[0, :, 51:] == 128).all()
        return stacked([[([10, 20, 30, 40], 0.9, 1)]])

    found = Tiles(640, 0.2, (64, 64), "pad").found(compute, [pixels])
    assert found.boxes_xyxy[0].round(4).tolist() == [[10, 20, 30, 40]]


def test_pieces_of_a_mask_become_one_mask():
    """A disc over the seam of two tiles, of which each sees a half."""
    layout = Layout(np.array([[0, 0], [100, 0]]), np.array([100, 100]), np.ones(2), np.zeros(2),
                    np.array([[False, False, True, False], [True, False, False, False]]))  # fmt: skip
    y, x = (np.arange(28) + 0.5) / 28 * 40 - 20, (np.arange(28) + 0.5) / 28 * 20
    right = (np.hypot(*np.meshgrid(y, x, indexing="ij")) < 20).astype(np.float32)
    boxes = np.array([[[80.0, 30, 100, 70]], [[0.0, 30, 20, 70]]])
    masks = np.stack([right[None, :, ::-1], right[None]])
    told = merged(Found(boxes, np.array([[0.6], [0.7]]), np.array([[1], [1]]), masks), layout)
    assert told.boxes_xyxy.tolist() == [[80, 30, 120, 70]]
    assert told.scores.tolist() == pytest.approx([0.65])
    assert told.masks is not None
    assert told.masks.dtype == np.float32
    whole = np.hypot(*np.meshgrid(y, y, indexing="ij")) < 20
    assert ((told.masks[0] >= 0.5) != whole).mean() < 0.03


def test_a_piece_is_not_asked_about_where_another_tile_sees_more():
    """Cut in two, an object may look like one of another class."""
    layout = Tiles(100, 0.4, (100, 100), "pad").layout(160, 100)
    assert layout.origins_xy.tolist() == [[0, 0], [60, 0]]
    whole, piece = ([10.0, 20, 50, 60], 0.6, 1), ([70.0, 20, 100, 60], 0.9, 2)
    told = merged(stacked([[piece], [whole]]), layout)
    assert told.boxes_xyxy.tolist() == [[70, 20, 110, 60]]
    assert told.labels.tolist() == [1]
    long = ([50.0, 20, 100, 60], 0.9, 2)  # begins before the second tile: neither sees all of it
    assert sorted(merged(stacked([[long], [whole]]), layout).labels.tolist()) == [1, 2]


def test_a_mask_spread_over_its_own_box_is_itself():
    mask = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    box = np.array([10.0, 20, 45, 33])
    assert np.allclose(spread(mask, box, box), mask, atol=1e-6)


def test_agreement_is_that_of_what_both_tiles_see():
    zone, none = np.array([80.0, 0, 100, 100]), np.zeros(2)
    a = np.array([[20.0, 10, 100, 30]])
    b = np.array([[80.0, 10, 170, 30], [80, 10, 170, 20], [90, 10, 170, 30], [80, 40, 100, 60]])
    assert agreement(a, b, zone, none).round(6).tolist() == [[1, 0.5, 0.5, 0]]
    assert agreement(a, np.add(b[:1], [[30, 0, 30, 0]]), np.array([100.0, 0, 100, 100]), np.ones(2)).tolist() == [[0]]


def test_what_is_not_finite_stays_visible():
    layout = Tiles(64, 0.2, (64, 64), "pad").layout(100, 64)
    found = stacked([[([1, 1, 9, 9], 0.9, 1)], [([1, 1, 9, 9], np.nan, 1)]])
    assert np.isnan(merged(found, layout).scores).all()


@pytest.mark.parametrize(
    ("side", "overlap", "where"), [(8, 0.2, "--tiles"), (64, -0.1, "--overlap"), (64, 0.95, "--overlap")]
)
def test_tiles_out_of_range_are_refused(side, overlap, where):
    with pytest.raises(ConfigError) as error:
        Tiles(side, overlap, (64, 64), "pad")
    assert error.value.where == where


def test_too_many_tiles_are_refused():
    with pytest.raises(ConfigError, match="tiles, and 10,000 are the most") as error:
        Tiles(16, 0.9, (64, 64), "pad").layout(4000, 3000)
    assert error.value.fix is not None
    side = int(error.value.fix.split()[1])
    assert 5000 < len(Tiles(side, 0.9, (64, 64), "pad").layout(4000, 3000).origins_xy) <= 10_000
