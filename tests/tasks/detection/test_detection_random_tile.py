"""Training on random tiles of large pictures: the pixels of the originals, the objects as the tile shows them, by keys.

Objects are rectangles in colours of their own, so that a tile's pixels say what is in it and where.
"""

import contextlib
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from mlcli.data.batches import Part, TrainOrder
from mlcli.data.decode import PAD_VALUE
from mlcli.data.randomness import sample_keys
from mlcli.engine.evaluate import evaluate_split
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.settings import Loader, Train
from mlcli.errors import ConfigError
from mlcli.tasks.detection.build import build_task, examine
from mlcli.tasks.detection.config import Detection
from mlcli.tasks.detection.data.augment import BoxAugment
from mlcli.tasks.detection.data.augment.random_tile import RandomTiles, told_of_tiles
from mlcli.tasks.detection.data.augmentations import BoxAffine, RandomTile
from mlcli.tasks.detection.data.build import build_source
from mlcli.tasks.detection.data.config import Coco, Scenes
from mlcli.tasks.detection.data.feed import DetectionFeed
from mlcli.tasks.detection.targets import Targets
from mlcli.tasks.detection.tiles import Tiles
from tests.reliability.soak import LONG

WIDTH, HEIGHT, SIDE = 200, 150, 64
PICTURES = [(WIDTH, HEIGHT), (WIDTH, HEIGHT), (40, 180), (50, 30), (WIDTH, HEIGHT)]
"""Width and height: three large ones, a narrow one, one smaller than a tile."""
EMPTY = 4
"""The picture without objects."""


def colour(number: int) -> tuple[int, int, int]:
    return 60 + 10 * number, 200, 255


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """COCO's annotations of painted pictures, with a mask for each object."""
    root, random = tmp_path_factory.mktemp("large"), np.random.default_rng(3)
    images, objects = [], []
    for number, (width, height) in enumerate(PICTURES):
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        for place in range(0 if number == EMPTY else 9):
            w, h = random.integers(8, min(width, height, 40), 2).tolist()
            x, y = int(random.integers(0, width - w + 1)), int(random.integers(0, height - h + 1))
            if pixels[max(0, y - 1) : y + h + 1, max(0, x - 1) : x + w + 1].any():
                continue
            pixels[y : y + h, x : x + w] = colour(place)
            polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            objects.append({"id": len(objects) + 1, "image_id": number, "category_id": 1 + place % 2, "area": w * h,
                            "bbox": [x, y, w, h], "iscrowd": 0, "segmentation": polygon})  # fmt: skip
        Image.fromarray(pixels).save(root / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
    categories = [{"id": 1, "name": "odd"}, {"id": 2, "name": "even"}]
    text = json.dumps({"images": images, "annotations": objects, "categories": categories})
    (root / "all.json").write_text(text)
    return root


@functools.cache
def source_of(folder: Path, image_size=SIDE):
    file = folder / "all.json"
    return build_source(Coco(name="coco", root=folder, train_file=file, val_file=None, val=0, image_size=image_size))


def tile(**keys) -> RandomTile:
    return RandomTile(name="random_tile", **keys)


def feed_of(folder: Path, *augment, image_size=SIDE, masks=True, loader=None, visibility=0.3, **train) -> DetectionFeed:
    settings = Train(epochs=3, **{"batch_size": 5, **train})
    return DetectionFeed(source_of(folder, image_size), augment, visibility, train=settings,
                         loader=loader or Loader(workers=0), device=torch.device("cpu"), masks=masks)  # fmt: skip


def part_of(pictures: list[int], epoch: int = 0) -> Part:
    indices = torch.tensor(pictures)
    return Part(indices, sample_keys(0, epoch, torch.arange(len(pictures))), epoch)


@pytest.mark.parametrize(
    "size", [(64, 96), (64, 64), (128, 128)][: 1 + 2 * LONG], ids=lambda size: "x".join(map(str, size))
)
def test_a_tile_shows_the_pixels_of_the_original_and_its_objects(folder, size):
    """Against a loop over the objects: what is in the window, cut, by share; masks lie on what is painted."""
    records = source_of(folder, size).splits["train"]
    feed, tiles = feed_of(folder, tile(side=96), image_size=size), RandomTiles(tile(side=96), 0, records)
    part = part_of([0, 1, 2, 3, 4] * 8)
    drawn, images = tiles.draw(part), tiles(part)
    changed, targets = feed.changed(images, part)
    assert torch.equal(changed, images)
    seen = 0
    for row, index in enumerate(part.indices.tolist()):
        left, top, right, bottom = drawn.boxes_xyxy[row].tolist()
        original = np.array(records.original(index))
        assert 0 <= left < right <= original.shape[1]
        assert 0 <= top < bottom <= original.shape[0]
        layout = Tiles(96, 0.0, size, "pad").layout(original.shape[1], original.shape[0])
        assert [right - left, bottom - top] == layout.size_wh.tolist()
        expected = Tiles(96, 0.0, size, "pad")._inputs(
            original, layout._replace(origins_xy=np.array([[left, top]])), 0
        )[0]
        assert np.array_equal(images[row].numpy(), expected)
        wanted = []
        for t in range(*records.offsets[index : index + 2].tolist()):
            x1, y1, x2, y2 = records.boxes_xyxy[t].tolist()
            cut = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
            visible = max(0, cut[2] - cut[0]) * max(0, cut[3] - cut[1]) / ((x2 - x1) * (y2 - y1))
            box = (np.array(cut) - [left, top, left, top]) * np.tile(layout.scale, 2) + np.tile(layout.shift, 2)
            if visible >= 0.3 and (box[2:] - box[:2]).min() >= 2:
                wanted.append((round(float(np.prod(box[2:] - box[:2])), 3), *box.round(3), records.labels[t]))
        valid = targets.valid[row]
        found = targets.boxes_xyxy[row][valid].double().numpy()
        areas = (found[:, 2:] - found[:, :2]).prod(axis=1)
        assert np.allclose(areas, sorted([area for area, *_ in wanted], reverse=True), rtol=1e-4)
        expected_boxes = np.array(sorted(tuple(box) for _, *box in wanted)).reshape(-1, 5)
        labelled = np.column_stack([found, targets.labels[row][valid]])
        assert np.allclose(np.array(sorted(map(tuple, labelled.tolist()))).reshape(-1, 5), expected_boxes, atol=2e-3)
        assert targets.masks is not None
        for mask, box in zip(targets.masks[row][valid], found, strict=True):
            ys, xs = np.nonzero(mask.numpy())
            assert np.allclose([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], box, atol=1)
            assert (images[row, 2][mask.bool()] > 100).float().mean() > 0.95  # painted all over, but for edges
        seen += len(found)
    assert seen > 40


def test_a_narrow_picture_is_grey_beside_it_and_a_small_one_is_seen_whole(folder):
    part = part_of([2, 3])
    images = RandomTiles(tile(), 0, source_of(folder).splits["train"])(part)
    assert (images[0, :, :, :12] == PAD_VALUE).all()
    assert (images[0, :, :, 52:] == PAD_VALUE).all()
    whole = source_of(folder).splits["train"].read(np.array([3]))
    assert torch.equal(images[1], whole[0])


def test_tiles_follow_from_seed_and_step_alone(folder):
    """Whatever the workers, however the step is cut, wherever training goes on."""

    def batches(start=0, count=6, **keys):
        feed = feed_of(folder, tile(), **keys)
        found = [batch for _, batch in zip(range(count), feed.train_batches(start), strict=False)]
        feed.close()
        return found

    plain = batches()
    for again, first in ((batches(start=2, count=4), 2), (batches(loader=Loader(workers=2)), 0)):
        for ours, theirs in zip(plain[first:], again, strict=True):
            assert all(map(torch.equal, ours.tensors(), theirs.tensors()))
    parts = batches(accumulate=5, count=30)
    joined = [torch.cat([part.inputs for part in parts[step * 5 : step * 5 + 5]]) for step in range(6)]
    assert all(torch.equal(batch.inputs, whole) for batch, whole in zip(plain, joined, strict=True))
    assert not torch.equal(plain[0].inputs, plain[1].inputs[plain[1].indices.argsort()][plain[0].indices])


def test_each_picture_gives_several_tiles_an_epoch(folder):
    feed = feed_of(folder, tile(per_picture=4))
    batches = [batch for _, batch in zip(range(4), feed.train_batches(0), strict=False)]
    assert feed.steps_per_epoch == 4
    indices = torch.cat([batch.indices for batch in batches])
    assert torch.bincount(indices).tolist() == [4] * 5
    inputs = torch.cat([batch.inputs for batch in batches])
    assert len(torch.unique(inputs[indices == 0], dim=0)) > 1
    with pytest.raises(ConfigError, match="21 is more than the 20 samples"):
        feed_of(folder, tile(per_picture=4), batch_size=21)


def test_most_tiles_hold_an_object_and_some_may_be_empty(folder):
    def empty(share: float, side: int) -> float:
        feed, part = feed_of(folder, tile(empty=share, side=side), masks=False), part_of([0, 1] * 100)
        _, targets = feed.changed(torch.zeros(200, 3, SIDE, SIDE, dtype=torch.uint8), part)
        return float((~targets.valid.any(dim=1)).float().mean())

    assert empty(0.0, 48) == 0
    assert 0 < empty(0.5, 48) < empty(1.0, 48)


def test_further_changes_count_what_the_tile_has_cut_off():
    """An object of which a tile shows half, and a move half of that, is a quarter of itself."""
    images, count = torch.zeros(300, 3, SIDE, SIDE, dtype=torch.uint8), 300
    targets = Targets(torch.tensor([[[20.0, 20, 40, 40]]] * count), torch.ones(count, 1, dtype=torch.int64))
    part, half = part_of([0] * count), torch.full((count, 1), 0.5)

    def kept(visibility: float, shown: torch.Tensor | None) -> torch.Tensor:
        moves = (BoxAffine(name="affine", translate=0.6, scale=(1.0, 1.0)),)
        augment = BoxAugment(moves, counts=np.ones(1, int), epochs=1,
                             min_visibility=visibility, max_objects=None)  # fmt: skip
        return augment(images, targets, part, shown)[1].labels

    assert torch.equal(kept(0.3, half), kept(0.6, None))
    assert kept(0.6, None).sum() < kept(0.3, None).sum() < count


def config_of(folder: Path, **keys) -> Detection:
    file = str(folder / "all.json")
    plain = {
        "task": "detection",
        "data": {"name": "coco", "root": str(folder), "train_file": file, "val": 0.2, "image_size": SIDE},
        "augment": [{"name": "random_tile", "side": 96}],
        "model": {"name": "yolo", "width": 4, "strides": [8, 16], "score_threshold": 0.0},
        "optimizer": {"name": "adamw"},
        "train": {"epochs": 1, "batch_size": 4, "device": "cpu"},
        "loader": {"workers": 0},
    }
    return Detection.model_validate({**plain, **keys})


def test_a_model_of_tiles_is_measured_in_tiles(folder):
    """The same as `evaluate --tiles` of the same side, without its being asked for."""
    runtime, task = decide_runtime(config_of(folder)), build_task(config_of(folder))
    with contextlib.closing(task.feed(runtime)) as feed:
        scores, metrics = evaluate_split(task, task.model, feed, "val", runtime)
        again = build_task(config_of(folder, augment=[]))
        compute = again.in_tiles(lambda inputs: again.predict(task.model, torch.from_numpy(inputs)), 96, 0.2)
        by_hand, _ = evaluate_split(again, task.model, feed, "val", runtime, answer=lambda net, batch: (
            {}, again.found_in_tiles(compute, "val", batch.indices)))  # fmt: skip
    assert str(task.tiles) == str(again.tiles)
    assert "tiles of 96x96 pixels" in task.caveat
    assert "loss" not in scores
    assert len(metrics.matches.found.scores) > 0
    assert scores == pytest.approx(by_hand, nan_ok=True)


def test_whole_pictures_are_answered_with_a_word(folder):
    assert "--tiles 96" in build_task(config_of(folder)).caveat
    assert build_task(config_of(folder, augment=[])).caveat == ""


def said(folder: Path, side: int, visibility: float = 0.3) -> str:
    line, warnings = told_of_tiles(tile(side=side), source_of(folder).splits["train"], visibility)
    return " | ".join([line, *warnings])


def test_what_does_not_fit_is_said(folder):
    assert "changes nothing" in said(folder, 300)
    assert "20 % of the pictures are no larger" in said(folder, 96)
    assert "larger than a tile of 24x24" in said(folder, 24)
    assert "too little of to be learned from" in said(folder, 24)
    assert "larger than a tile" not in said(folder, 96)
    text = said(folder, 24)
    side = int(text.split("of side ")[1].split()[0])
    records = source_of(folder).splits["train"]
    longest = (records.boxes_xyxy[:, 2:] - records.boxes_xyxy[:, :2]).max(axis=1)
    assert 0.9 < (longest <= side).mean() <= 1
    with pytest.raises(ConfigError, match="no object is seen by 100 %"):
        told_of_tiles(tile(side=16), records.only(np.flatnonzero(longest_of_each(records) > 16)), 1.0)


def longest_of_each(records) -> np.ndarray:
    """The shortest of the longer sides of each picture's objects."""
    longest = np.full(len(records), 0.0)
    for index in range(len(records)):
        boxes = records.boxes_of(index)
        longest[index] = (boxes[:, 2:] - boxes[:, :2]).max(axis=1).min(initial=np.inf) if len(boxes) else 0.0
    return longest


def test_data_check_shows_tiles_and_measures_objects_in_them(folder):
    examination = examine(
        config_of(folder, augment=[{"name": "random_tile", "side": 190}], model={"name": "yolo", "strides": [16, 32]})
    )
    assert dict(examination.facts)["training"].startswith("learned from in tiles of 190x190 pixels")
    assert "tiles" in [sheet.name for sheet in examination.sheets]
    (small,) = [finding for finding in examination.findings if finding.kind == "objects-small"]
    assert small.text.startswith("once tiles are 64x64")
    assert "a smaller side of random_tile" in small.fix


def test_what_cannot_be_is_refused(folder):
    for keys, words in (
        ({"model": {"name": "rcnn"}}, "regions are proposed for whole pictures"),
        ({"augment": [{"name": "random_tile", "side": 8}]}, "greater than or equal to 16"),
        ({"augment": [{"name": "random_tile", "overlap": 1.0}]}, "less than or equal to 0.9"),
        ({"augment": [{"name": "random_tile", "per_picture": 0}]}, "greater than 0"),
        ({"augment": [{"name": "random_tile", "per_picture": 2**63}]}, "less than or equal to 1000"),
        ({"multi_scale": {"most": 2**40}}, "less than or equal to 16384"),
    ):
        with pytest.raises(ValueError, match=words):
            config_of(folder, **keys)
    with pytest.raises(ConfigError, match="once only"):
        feed_of(folder, tile(), tile())
    for cache in ("ram", "disk", "device"):
        with pytest.raises(ConfigError, match="cuts from the files' own pixels") as refused:
            feed_of(folder, tile(), loader=Loader(cache=cache, workers=0))
        assert refused.value.fix == "loader.cache=none"
    feed = feed_of(folder, tile())
    assert next(choice.why for choice in feed.choices) == "random_tile cuts from the original pixels"


def test_pictures_in_memory_are_cut_as_well():
    scenes = build_source(Scenes(name="scenes", images=20, image_size=96))
    feed = DetectionFeed(scenes, (tile(side=48, per_picture=2),), 0.3, train=Train(epochs=1, batch_size=8),
                         loader=Loader(), device=torch.device("cpu"))  # fmt: skip
    batch, tiles = next(feed.train_batches(0)), RandomTiles(tile(side=48), 0, scenes.splits["train"])
    part = next(TrainOrder(torch.zeros(20), Train(epochs=1, batch_size=8), "shuffle", times=2).parts(0))
    assert torch.equal(part.indices, batch.indices)
    drawn = tiles.draw(part)
    for image, index, (left, top, right, bottom) in zip(batch.inputs, part.indices, drawn.boxes_xyxy, strict=True):
        original = scenes.splits["train"].images.inputs[index][None, :, top:bottom, left:right].float()
        resized = functional.interpolate(original, (96, 96), mode="bilinear", antialias=True)[0]
        assert (image.float() - resized).abs().max() <= 1
    assert feed.steps_per_epoch == 5
