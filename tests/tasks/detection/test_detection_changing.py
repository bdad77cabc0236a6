"""Held pictures that worker processes change: the very batches that training without them would have."""

import contextlib
import functools

import pytest
import torch

from mlcli.data.augmentations import HorizontalFlip
from mlcli.data.changing import Rows
from mlcli.engine.settings import Loader, Train
from mlcli.errors import DataError
from mlcli.tasks.detection.data import augmentations as c
from mlcli.tasks.detection.data.build import build_source
from mlcli.tasks.detection.data.config import Coco, Scenes
from mlcli.tasks.detection.data.feed import DetectionFeed
from tests.tasks.detection.test_detection_random_tile import folder  # noqa: F401 - a fixture

FLIP = HorizontalFlip(name="horizontal_flip")
COLOUR = c.Photometric(name="photometric")
AFFINE = c.BoxAffine(name="affine", degrees=10)
MOSAIC = c.Mosaic(name="mosaic", off_share=0.34)
MIXUP = c.BoxMixup(name="mixup", p=0.5, off_share=0.34)
TILE = c.RandomTile(name="random_tile", side=48)
SCENES = Scenes(name="scenes", images=24, image_size=64)


@functools.cache
def scenes():
    return build_source(SCENES)


def feed_of(source, augment, workers, *, masks=False, sizes=(), **train) -> DetectionFeed:
    settings = Train(epochs=3, **{"batch_size": 8, **train})
    return DetectionFeed(source, augment, 0.3, train=settings, loader=Loader(workers=workers, cache="ram"),
                         device=torch.device("cpu"), masks=masks, sizes=sizes)  # fmt: skip


def batches_of(feed: DetectionFeed, start: int = 0, count: int = 9):
    with contextlib.closing(feed):
        return [batch for _, batch in zip(range(count), feed.train_batches(start), strict=False)]


def check_equal(ours, theirs) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert [value.dtype for value in one.tensors()] == [value.dtype for value in other.tensors()]
        assert all(map(torch.equal, one.tensors(), other.tensors()))
        assert (one.targets.masks is None) == (other.targets.masks is None)


@pytest.mark.parametrize(
    ("augment", "keys"),
    [
        ((COLOUR, FLIP, AFFINE), {"masks": True}),
        ((MOSAIC, MIXUP), {"accumulate": 2}),
        ((FLIP,), {"accumulate": 3}),
        ((TILE, FLIP), {}),
    ],
    ids=["masks", "mixed in whole steps, off at the end", "parts of steps", "tiles"],
)
def test_batches_are_the_same(augment, keys):
    source = scenes()
    expected = batches_of(feed_of(source, augment, 0, **keys), count=9 * keys.get("accumulate", 1))
    feed = feed_of(source, augment, 2, **keys)
    assert {choice.what: choice.value for choice in feed.choices}["workers"] == "2"
    check_equal(expected, batches_of(feed, count=9 * keys.get("accumulate", 1)))
    resumed = batches_of(feed_of(source, augment, 2, **keys), start=4, count=2)
    first = 4 * keys.get("accumulate", 1)
    check_equal(expected[first : first + 2], resumed)
    if augment == (MOSAIC, MIXUP):  # at the end nothing is blended, and pictures stay bytes
        assert {batch.inputs.dtype for batch in expected} == {torch.float32, torch.uint8}


def test_files_that_were_read_into_memory_are_changed_as_well(folder):  # noqa: F811
    source = build_source(Coco(name="coco", root=folder, train_file=folder / "all.json", val=0.0, image_size=64))
    plain = batches_of(feed_of(source, (FLIP, AFFINE), 0, batch_size=4), count=4)
    check_equal(plain, batches_of(feed_of(source, (FLIP, AFFINE), 2, batch_size=4), count=4))


def test_finer_parts_come_from_the_same_workers():
    """As when memory runs out."""
    source = scenes()
    feed, plain = feed_of(source, (FLIP,), 1), feed_of(source, (FLIP,), 0)
    with contextlib.closing(feed), contextlib.closing(plain):
        for one in (feed, plain):
            next(one.train_batches(0))
            one.cut(4)
        ours = [batch for _, batch in zip(range(8), feed.train_batches(1), strict=False)]
        check_equal([batch for _, batch in zip(range(8), plain.train_batches(1), strict=False)], ours)
    assert [len(batch) for batch in ours] == [2] * 8


def test_without_being_asked_for_or_without_work_there_are_none():
    source = scenes()
    for feed in (
        feed_of(source, (FLIP,), "auto"),
        feed_of(source, (), 2),
        feed_of(source, (FLIP,), 2, sizes=[(64, 64)]),
    ):
        assert {choice.what: choice.value for choice in feed.choices}["workers"] == "0"
        assert feed._changing == 0


def test_what_fails_in_a_worker_is_told_with_the_pictures():
    source = scenes()
    feed = feed_of(source, (FLIP,), 1)
    batches = feed.train_batches(0)
    next(batches)
    feed._tables = None  # the worker has a copy of the feed as it is when it starts
    with contextlib.closing(feed), pytest.raises(DataError, match=r"a worker .* raised TypeError") as failed:
        next(batches)
    assert "scenes" in failed.value.where


def test_rows_hold_tensors_of_any_kind():
    example = [torch.rand(3, 2, 5), torch.arange(9).view(3, 3), torch.ones(3, 0, 4), torch.zeros(3, dtype=torch.int64)]
    rows = Rows(example)
    for inputs in (example[0], (255 * example[0]).to(torch.uint8)):
        packed = rows.packed([inputs, *example[1:]])
        assert packed.shape == (3, rows.width)
        found = rows.unpacked(packed)
        packed.zero_()
        for one, other in zip([inputs, *example[1:]], found, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
