"""Augmentation: pixels, boxes, masks and labels change together, as torchvision moves them, and by keys alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torchvision.ops import box_iou, masks_to_boxes
from torchvision.transforms.v2 import functional as vision
from torchvision.tv_tensors import BoundingBoxes

from mlcli.data.augmentations import HorizontalFlip, VerticalFlip
from mlcli.data.batches import Part
from mlcli.data.randomness import KeyedRandom, sample_keys
from mlcli.errors import ConfigError
from mlcli.tasks.detection.data import augmentations as c
from mlcli.tasks.detection.data.augment import BoxAugment, moves
from mlcli.tasks.detection.data.augment.placement import Placement, Resample, inverted
from mlcli.tasks.detection.targets import Targets

SIZE = (48, 64)
FLIP, UPSIDE_DOWN = HorizontalFlip(name="horizontal_flip"), VerticalFlip(name="vertical_flip")
AFFINE = c.BoxAffine(name="affine", degrees=20, shear=10)
ZOOM = c.ZoomOut(name="zoom_out", p=0.7)
CROP = c.IouCrop(name="iou_crop", p=0.9)
MOSAIC = c.Mosaic(name="mosaic", p=0.7)
MIXUP = c.BoxMixup(name="mixup", p=0.6)
COLOUR = c.Photometric(name="photometric")
GREYS = torch.tensor([0.0, 180.0, 220.0, 255.0])
"""What an object of each label is painted with; the fill is 128 and the ground darker."""


def scene(batch: int, rows: int, seed: int, *, empty: bool = False) -> tuple[torch.Tensor, Targets]:
    """Pictures with a bright rectangle for each object, none overlapping another, and exact masks."""
    random = np.random.default_rng(seed)
    images = torch.from_numpy(random.integers(0, 60, (batch, 3, *SIZE), dtype=np.uint8))
    boxes, labels = torch.zeros(batch, rows, 4), torch.zeros(batch, rows, dtype=torch.int64)
    masks = torch.zeros(batch, rows, *SIZE, dtype=torch.uint8)
    for b in range(batch):
        strips = np.sort(random.choice(np.arange(2, SIZE[1] - 1, 6), 2 * rows, replace=False)).reshape(rows, 2)
        for r in range(0 if empty else random.integers(0, rows + 1)):
            left, right = strips[r].tolist()
            top = int(random.integers(0, SIZE[0] - 12))
            bottom = int(random.integers(top + 8, SIZE[0] + 1))
            boxes[b, r] = torch.tensor([left, top, right, bottom])
            labels[b, r] = int(random.integers(1, 4))
            masks[b, r, top:bottom, left:right] = 1
            images[b, :, top:bottom, left:right] = GREYS[labels[b, r]].to(torch.uint8)
    return images, Targets(boxes, labels, masks)


def augment(*configs, visibility: float = 0.3, epochs: int = 10, rows: int = 3, most: int | None = None) -> BoxAugment:
    counts = np.array([rows] * 50)
    return BoxAugment(configs, counts=counts, epochs=epochs, min_visibility=visibility, max_objects=most)


def keywords(config) -> dict:
    return config.model_dump(exclude={"name"})


def part(batch: int, seed: int = 0, epoch: int = 0) -> Part:
    indices = torch.arange(batch)
    return Part(indices, sample_keys(seed, epoch, indices), epoch)


# --- everything agrees -----------------------------------------------------------------------------------------------

geometry = st.lists(
    st.sampled_from([FLIP, UPSIDE_DOWN, AFFINE, ZOOM, CROP, MOSAIC]), max_size=5, unique_by=lambda x: x.name
)


@settings(max_examples=60, deadline=None)
@given(configs=geometry, seed=st.integers(0, 10**6))
def test_boxes_masks_labels_and_pixels_agree(configs, seed):
    images, targets = scene(6, 3, seed)
    seen, found = augment(*configs)(images, targets, part(6, seed))
    assert (found.boxes_xyxy >= 0).all()
    assert (found.boxes_xyxy[..., [0, 2]] <= SIZE[1]).all()
    assert (found.boxes_xyxy[..., [1, 3]] <= SIZE[0]).all()
    assert (found.boxes_xyxy[~found.valid] == 0).all()
    assert (found.masks[~found.valid] == 0).all()
    assert not (found.valid[:, 1:] & ~found.valid[:, :-1]).any(), "rows that stand for nothing come last"
    for b, r in found.valid.nonzero().tolist():
        mask, box = found.masks[b, r].bool(), found.boxes_xyxy[b, r]
        if mask.any():
            around = masks_to_boxes(mask[None])[0] + torch.tensor([0, 0, 1, 1])
            assert (around[:2] >= box[:2] - 1).all()
            assert (around[2:] <= box[2:] + 1).all()
            # The inside of the mask, away from its edge, has the colour that its label is painted with.
            inside = functional.max_pool2d(functional.pad(1 - mask.float(), [3] * 4, value=1)[None], 7, 1)[0] == 0
            pixels = seen[b, 0][inside].float()
            assert torch.allclose(pixels, GREYS[found.labels[b, r]].expand_as(pixels), atol=1.5)


@settings(max_examples=30, deadline=None)
@given(configs=geometry, seed=st.integers(0, 10**6))
def test_no_object_is_seen_that_is_not_named(configs, seed):
    """With min_visibility 0 all that is bright belongs to some box, but for slivers thinner than two pixels."""
    images, targets = scene(5, 3, seed)
    seen, found = augment(*configs, visibility=0.0)(images, targets, part(5, seed))
    bright = seen[:, 0].float() > 170
    rows, columns = torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5
    left, top, right, bottom = found.boxes_xyxy.unsqueeze(-1).unbind(2)
    across = (columns > left - 1) & (columns < right + 1) & found.valid[..., None]
    down = (rows > top - 1) & (rows < bottom + 1)
    named = (down[..., None] & across[:, :, None]).any(1)
    stray = (bright & ~named).float()
    assert functional.avg_pool2d(stray[:, None], 4, 1).max() < 1, "a 4 x 4 block of an object without a box"


def test_labels_of_rows_follow_their_boxes():
    images, targets = scene(8, 3, 1)
    _, found = augment(FLIP.model_copy(update={"p": 1.0}))(images, targets, part(8))
    for b in range(8):
        there = targets.valid[b]
        _, y1, x2, _ = targets.boxes_xyxy[b][there].unbind(1)
        expected = {
            (SIZE[1] - float(r), float(t)): int(k) for r, t, k in zip(x2, y1, targets.labels[b][there], strict=True)
        }
        got = found.valid[b]
        assert expected == {
            (float(box[0]), float(box[1])): int(k)
            for box, k in zip(found.boxes_xyxy[b][got], found.labels[b][got], strict=True)
        }


@pytest.mark.parametrize(
    "configs", [(), (FLIP, UPSIDE_DOWN, AFFINE, CROP, ZOOM), (MOSAIC, MIXUP)], ids=["none", "maps", "mixing"]
)
def test_pictures_without_objects(configs):
    images, targets = scene(4, 2, 0, empty=True)
    seen, found = augment(*configs, COLOUR)(images, targets, part(4))
    assert not found.valid.any()
    assert not found.boxes_xyxy.any()
    assert seen.isfinite().all()


# --- each map against torchvision or the definition ------------------------------------------------------------------


def test_affine_is_torchvisions():
    images, targets = scene(5, 3, 3)
    keys = part(5).keys
    config = AFFINE
    random = KeyedRandom(keys, 0)  # draws in the order of moves.affine
    angle = random.uniform(-config.degrees, config.degrees)
    shift = random.uniform(-config.translate, config.translate, (2,)) * torch.tensor([SIZE[1], SIZE[0]])
    scale, shear = random.uniform(*config.scale), random.uniform(-config.shear, config.shear)
    placement = Placement.unchanged(5, images.device).then(moves.affine(KeyedRandom(keys, 0), SIZE, **keywords(config)))
    moved = Resample(placement, SIZE).images(images)
    boxes, _ = placement.move(targets.boxes_xyxy, SIZE)
    for b in range(5):
        options = {
            "angle": float(angle[b]),
            "translate": [float(shift[b, 0]), float(shift[b, 1])],
            "scale": float(scale[b]),
            "shear": [float(shear[b]), 0.0],
        }
        expected = vision.affine(
            images[b].float(), interpolation=vision.InterpolationMode.BILINEAR, fill=128.0, **options
        )
        close = (moved[b] - expected).abs() < 1
        assert close.float().mean() > 0.95, "all but the border, where torchvision blends with the fill"
        there = targets.valid[b]
        given = BoundingBoxes(targets.boxes_xyxy[b][there], format="XYXY", canvas_size=SIZE)
        assert torch.allclose(boxes[b][there], vision.affine(given, **options).as_subclass(torch.Tensor), atol=1e-2)


def test_crops_overlap_an_object_enough():
    _, targets = scene(200, 3, 5)
    config = c.IouCrop(name="iou_crop", p=1.0, min_ious=(0.3,))
    crops = inverted(
        moves.iou_crop(KeyedRandom(part(200).keys), SIZE, targets.boxes_xyxy, targets.valid, **keywords(config))
    )
    corners = torch.tensor([[0.0, 0.0, 1.0], [SIZE[1], SIZE[0], 1.0]])
    parts = (crops[:, None] @ corners[..., None])[..., :2, 0].flatten(1)
    sides = (parts[:, 2:] - parts[:, :2]) / torch.tensor([SIZE[1], SIZE[0]])
    cropped = (sides < 0.999).any(1)
    assert cropped.float().mean() > 0.2
    assert (sides >= config.min_scale - 1e-4).all()
    for b in cropped.nonzero().flatten().tolist():
        assert box_iou(parts[b : b + 1], targets.boxes_xyxy[b][targets.valid[b]]).max() >= 0.3 - 1e-4
    assert not cropped[~targets.valid.any(1)].any(), "pictures without objects are kept whole"


def test_zooming_out_keeps_everything():
    images, targets = scene(20, 3, 2)
    config = c.ZoomOut(name="zoom_out", p=1.0, most=2.0)
    seen, found = augment(config)(images, targets, part(20))
    assert torch.equal(found.valid.sum(1), targets.valid.sum(1))
    old, new = (masks.masks.flatten(1).sum(1).float() for masks in (targets, found))
    shrunk = (new / old)[old > 0]
    assert ((shrunk > 0.2) & (shrunk < 1.05)).all()
    assert (seen == 128).all(1).flatten(1).float().mean() > 0.3


def test_mosaic_is_four_pictures_each_covering_its_quarter():
    """Against a plain loop: each quarter warped on its own and pasted."""
    images, _ = scene(6, 3, 4)
    placement = moves.mosaic(KeyedRandom(part(6).keys), SIZE, Placement.unchanged(6, images.device), p=1.0)
    seen = Resample(placement, SIZE).images(images)
    pasted = torch.full_like(seen, -1)
    for b in range(6):
        for p in range(4):
            left, top, right, bottom = (int(edge[b, p]) for edge in placement.windows)
            assert 0 <= left < right <= SIZE[1]
            assert 0 <= top < bottom <= SIZE[0]
            scale, x, y = (float(placement.inner[b, p][where]) for where in ((0, 0), (0, 2), (1, 2)))
            assert x <= left + 1e-3
            assert y <= top + 1e-3
            assert x + scale * SIZE[1] >= right - 1e-3
            assert y + scale * SIZE[0] >= bottom - 1e-3
            for row in range(top, bottom):
                for column in range(left, right):
                    source = ((column + 0.5 - x) / scale - 0.5, (row + 0.5 - y) / scale - 0.5)
                    pasted[b, :, row, column] = _bilinear(images[placement.picture[b, p]].float(), *source)
    assert torch.allclose(seen, pasted, atol=0.05)


def test_mixup_blends_and_names_both():
    images, targets = scene(8, 3, 6)
    seen, found = augment(c.BoxMixup(name="mixup", p=1.0), rows=6)(images, targets, part(8))
    assert found.valid.sum() > targets.valid.sum()
    for b in range(8):
        own = {tuple(box) for box in targets.boxes_xyxy[b][targets.valid[b]].tolist()}
        assert own <= {tuple(box) for box in found.boxes_xyxy[b][found.valid[b]].tolist()}
    assert not torch.equal(seen, images)
    share = 0.4 * images.float()
    assert (seen >= share - 1e-3).all()


def test_without_anything_nothing_changes():
    images, targets = scene(4, 3, 7)
    seen, found = augment()(images, targets, part(4))
    assert torch.equal(seen, images)
    for b in range(4):
        key = lambda rows: sorted(rows.tolist())  # noqa: E731
        assert key(found.boxes_xyxy[b][found.valid[b]]) == key(targets.boxes_xyxy[b][targets.valid[b]])


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_min_visibility():
    """A shift by half the width leaves 0 to 100 % of each box."""
    targets = Targets(torch.tensor([[[0.0, 0.0, 20.0, 20.0], [20.0, 0.0, 40.0, 20.0]]]), torch.tensor([[1, 2]]))
    images = torch.zeros(1, 3, *SIZE, dtype=torch.uint8)
    shift = torch.tensor([[[1.0, 0.0, -12.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    placement = Placement.unchanged(1, images.device).then(shift)
    boxes, left = placement.move(targets.boxes_xyxy, SIZE)
    assert torch.allclose(left, torch.tensor([[0.4, 1.0]]))
    assert boxes[0].tolist() == [[0, 0, 8, 20], [8, 0, 28, 20]]


@pytest.mark.parametrize("visibility", [0.0, 0.5, 1.0])
def test_objects_that_are_hardly_seen_are_dropped(visibility):
    images, targets = scene(40, 3, 8)
    move = c.BoxAffine(name="affine", translate=0.5, scale=(1.0, 1.0))
    _, found = augment(move, visibility=visibility)(images, targets, part(40))
    placement = Placement.unchanged(40, images.device).then(
        moves.affine(KeyedRandom(part(40).keys, 0), SIZE, **keywords(move))
    )
    _, left = placement.move(targets.boxes_xyxy, SIZE)
    kept = (left >= visibility) & (left > 0) & targets.valid
    assert 0 < found.valid.sum() <= kept.sum()
    assert (kept.sum(1) - found.valid.sum(1)).max() <= 1, "the rest is thinner than two pixels"


def test_visibility_counts_what_quarters_of_a_mosaic_hide():
    """A box as large as the picture is seen in the share that its quarter shows of the picture."""
    images, _ = scene(6, 1, 0)
    placement = moves.mosaic(KeyedRandom(part(6).keys), SIZE, Placement.unchanged(6, images.device), p=MOSAIC.p)
    whole = torch.tensor([0.0, 0.0, SIZE[1], SIZE[0]]).expand(6, 1, 4)
    boxes, left = placement.move(whole, SIZE)
    x1, y1, x2, y2 = placement.windows
    magnified = placement.inner[..., 0, 0] ** 2 * SIZE[0] * SIZE[1]
    windows = torch.stack([x1.clamp(min=0), y1.clamp(min=0), x2.clamp(max=SIZE[1]), y2.clamp(max=SIZE[0])], -1)
    assert torch.allclose(boxes, windows, atol=1e-3)
    shown = (windows[..., 2:] - windows[..., :2]).prod(-1)
    assert torch.allclose(left, shown / magnified, atol=1e-4)
    assert (left < 0.99).any()


def test_the_largest_are_kept():
    images, targets = scene(10, 3, 9)
    _, found = augment(most=1)(images, targets, part(10))
    assert found.labels.shape == (10, 1)
    area = (targets.boxes_xyxy[..., 2:] - targets.boxes_xyxy[..., :2]).prod(-1)
    assert torch.equal((found.boxes_xyxy[..., 2:] - found.boxes_xyxy[..., :2]).prod(-1)[:, 0], area.max(1).values)


def test_rows_are_enough_for_mosaics_and_static():
    make = augment(MOSAIC, MIXUP, rows=3)
    assert make.rows == 24
    images, targets = scene(6, 3, 1)
    for epoch in (0, 9):
        assert make(images, targets, part(6, epoch=epoch))[1].labels.shape == (6, 24)
    assert augment(rows=3).rows == 3


# --- randomness ------------------------------------------------------------------------------------------------------


def test_keyed_by_sample_not_by_batch():
    images, targets = scene(6, 3, 10)
    make = augment(COLOUR, CROP, AFFINE, FLIP, UPSIDE_DOWN, ZOOM)
    whole = part(6)
    seen, found = make(images, targets, whole)
    for b in range(6):
        one = Part(whole.indices[b : b + 1], whole.keys[b : b + 1])
        alone, own = make(images[b : b + 1], targets[b : b + 1], one)
        assert torch.allclose(alone[0], seen[b], atol=1e-2)
        assert torch.allclose(own.boxes_xyxy[0], found.boxes_xyxy[b], atol=1e-4)
        assert torch.equal(own.labels[0], found.labels[b])
    again, _ = make(images, targets, part(6))
    assert torch.equal(again, seen)
    assert not torch.equal(make(images, targets, part(6, epoch=1))[0], seen)


def test_mixing_is_switched_off_at_the_end():
    images, targets = scene(6, 3, 11)
    make = augment(c.Mosaic(name="mosaic", p=1.0, off_share=0.2), c.BoxMixup(name="mixup", p=1.0, off_share=0.3))
    changed = [
        not torch.equal(make(images, targets, part(6, epoch=epoch))[0].float(), images.float()) for epoch in range(10)
    ]
    assert changed == [True] * 8 + [False] * 2
    only_mosaic = make(images, targets, part(6, epoch=7))[0]
    assert torch.equal(only_mosaic, augment(c.Mosaic(name="mosaic", p=1.0))(images, targets, part(6, epoch=7))[0])


def test_two_mosaics_are_refused():
    with pytest.raises(ConfigError, match="once"):
        augment(MOSAIC, MOSAIC)


# --- proposals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [FLIP, UPSIDE_DOWN, CROP, MOSAIC], ids=lambda config: config.name)
def test_proposals_move_as_boxes_do(config):
    images, targets = scene(8, 3, 12)
    given = Targets(targets.boxes_xyxy, targets.labels, proposals_xyxy=targets.boxes_xyxy)
    _, found = augment(config)(images, given, part(8))
    assert found.proposals_xyxy.shape == given.proposals_xyxy.shape
    for b in range(8):
        boxes = {tuple(round(x, 2) for x in box) for box in found.boxes_xyxy[b][found.valid[b]].tolist()}
        looked_at = {tuple(round(x, 2) for x in box) for box in found.proposals_xyxy[b].tolist() if any(box)}
        assert len(looked_at & boxes) >= min(len(boxes), 3) - 1
        empty = (found.proposals_xyxy[b] == 0).all(1)
        assert not (empty[:-1] & ~empty[1:]).any(), "what stands for nothing comes last"


def _bilinear(image, x: float, y: float) -> torch.Tensor:
    height, width = image.shape[1:]
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    column, row = min(int(x), width - 2), min(int(y), height - 2)
    a, b = x - column, y - row
    near = SimpleNamespace(top=image[:, row, column : column + 2], bottom=image[:, row + 1, column : column + 2])
    top, bottom = ((1 - a) * line[:, 0] + a * line[:, 1] for line in (near.top, near.bottom))
    return (1 - b) * top + b * bottom


@pytest.mark.parametrize(("config", "axis"), [(FLIP, 3), (UPSIDE_DOWN, 2)], ids=["left-right", "top-bottom"])
def test_flips_mirror_pixels_boxes_and_masks(config, axis):
    images, targets = scene(4, 3, 2)
    seen, found = augment(config.model_copy(update={"p": 1.0}))(images, targets, part(4))
    assert (seen - images.float().flip(axis)).abs().max() < 1e-3
    first, second, side = (0, 2, SIZE[1]) if axis == 3 else (1, 3, SIZE[0])
    expected = targets.boxes_xyxy.clone()
    expected[..., first], expected[..., second] = side - targets.boxes_xyxy[..., second], side - expected[..., first]
    rows = [sorted(boxes[there].tolist()) for boxes, there in zip(found.boxes_xyxy, found.valid, strict=True)]
    assert rows == [sorted(boxes[there].tolist()) for boxes, there in zip(expected, targets.valid, strict=True)]
    assert torch.equal(found.masks.amax(1), targets.masks.amax(1).flip(axis - 1))


def test_flips_alternate_from_epoch_to_epoch():
    """Each picture is mirrored in every other epoch, whatever order it comes in."""
    images, targets = scene(6, 3, 0)
    alternate = HorizontalFlip(name="horizontal_flip", alternate=True)
    mirrored = []
    for epoch in range(4):
        changed, _ = augment(alternate)(images, targets, part(6, epoch=epoch))
        turned, plain = images.float().flip(3), images.float()
        is_mirrored = (changed - turned).abs().amax((1, 2, 3)) < 1
        assert torch.equal(is_mirrored, (changed - plain).abs().amax((1, 2, 3)) >= 1)
        mirrored.append(is_mirrored)
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert torch.equal(mirrored[0], mirrored[2])
    assert torch.equal(mirrored[1], mirrored[3])
    assert 0 < mirrored[0].sum() < 6
