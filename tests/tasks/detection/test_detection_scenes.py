"""Scenes: the same for the same seed, tight boxes, exact masks, legible digits, nothing shared between splits."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou, masks_to_boxes

from mlcli.tasks.detection.data import scenes
from mlcli.tasks.detection.data.build import build_source
from mlcli.tasks.detection.data.config import Scenes
from mlcli.tasks.detection.masks import decode

CONFIG = Scenes(name="scenes", images=40)


@pytest.fixture(scope="module")
def source():
    return build_source(CONFIG)


def test_splits_and_facts(source):
    assert {split: len(records) for split, records in source.splits.items()} == {"train": 40, "val": 8, "test": 8}
    info = source.info
    assert info.input_shape == (3, 128, 128)
    assert info.class_names == tuple("0123456789")
    assert info.target == "boxes"
    pixels = source.splits["train"].images.inputs.double() / 255
    assert info.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist())
    assert info.std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist())


def test_scenes_follow_from_the_seed_alone(source):
    again, other = build_source(CONFIG), build_source(CONFIG.model_copy(update={"scene_seed": 1}))
    fewer = build_source(CONFIG.model_copy(update={"images": 20}))
    for split in ("train", "val", "test"):
        ours, same = source.splits[split], again.splits[split]
        assert torch.equal(ours.images.inputs, same.images.inputs)
        assert np.array_equal(ours.boxes_xyxy, same.boxes_xyxy)
        assert not torch.equal(ours.images.inputs, other.splits[split].images.inputs)
    assert torch.equal(fewer.splits["train"].images.inputs, source.splits["train"].images.inputs[:20])


def test_boxes_are_tight_around_masks(source):
    records = source.splits["train"]
    masks = torch.from_numpy(np.stack([decode(mask, 128, 128) for mask in records.segmentations]))
    tight = masks_to_boxes(masks)
    tight[:, 2:] += 1  # torchvision names the last pixel, boxes end after it
    assert torch.equal(tight, torch.from_numpy(records.boxes_xyxy))
    assert np.array_equal(masks.sum(dim=(1, 2)).numpy(), records.area)


def test_masks_cover_the_digits(source):
    """Under a mask, pixels are of one colour; around it they are the photograph's."""
    records = source.splits["train"]
    contrasts = []
    for index in range(len(records)):
        masks = [decode(records.segmentations[t], 128, 128) for t in range(*_ends(records, index))]
        pixels = records.images.inputs[index].float().mean(dim=0).numpy()
        for mask, (left, top, right, bottom) in zip(masks, records.boxes_of(index).astype(int), strict=True):
            around = np.zeros_like(mask)
            around[top:bottom, left:right] = True
            around &= ~np.any(masks, axis=0)
            contrasts.append(abs(np.median(pixels[mask]) - np.median(pixels[around])))
    assert np.median(contrasts) > 60


def test_what_another_digit_hides_is_not_in_a_mask(monkeypatch):
    monkeypatch.setattr(scenes, "MOST_COVERED", 0.4)
    crowded = build_source(Scenes(name="scenes", images=20)).splits["train"]
    touching = 0
    for index in range(len(crowded)):
        masks = [decode(crowded.segmentations[t], 128, 128) for t in range(*_ends(crowded, index))]
        assert np.sum(masks, axis=0).max() <= 1
        boxes = torch.from_numpy(crowded.boxes_of(index))
        touching += int((box_iou(boxes, boxes).fill_diagonal_(0) > 0).any())
    assert touching >= 5


def test_digits_are_large_enough_and_hardly_covered(source):
    records = source.splits["train"]
    width, height = (records.boxes_xyxy[:, 2:] - records.boxes_xyxy[:, :2]).T
    assert np.quantile(height, 0.05) >= 20
    assert np.quantile(width, 0.05) >= 8
    assert np.quantile(height, 0.95) <= 62
    overlaps = [box_iou(boxes, boxes).fill_diagonal_(0) for boxes in map(torch.from_numpy, _boxes(records))]
    assert max(float(overlap.max()) for overlap in overlaps) < 0.15
    assert set(records.labels) == set(range(1, 11))


def test_no_digit_is_in_two_splits():
    train, val, test = (
        {(label, ink.tobytes()) for ink, label in zip(digits.inks, digits.labels.tolist(), strict=True)}
        for digits in scenes._digits().values()
    )
    assert len(train) > 1000
    assert not train & val
    assert not train & test
    assert not val & test


def test_another_shape():
    records = build_source(Scenes(name="scenes", images=20, image_size=(96, 160), most_digits=2)).splits["train"]
    assert records.images.inputs.shape == (20, 3, 96, 160)
    assert (records.boxes_xyxy[:, 2:] <= (160, 96)).all()
    assert records.counts.max() <= 2


def _ends(records, index):
    objects = records.objects_of(index)
    return objects.start, objects.stop


def _boxes(records):
    return [records.boxes_of(index) for index in range(len(records))]
