"""R-CNN: crops as Pillow and a plain loop cut them, and a network that learns from them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from mlcli.engine.terms import total
from mlcli.tasks.detection.models import rcnn
from mlcli.tasks.detection.models.rcnn import crop_and_warp

from .overfit import detector, facts
from .rectangles import check_detections, found_share, learn_by_heart, rectangles

SLIDING = {"method": "sliding", "most": 900}
BOXES = torch.tensor([[4.0, 6.0, 28.0, 22.0], [10.5, 3.25, 17.0, 30.75], [0.0, 0.0, 40.0, 32.0]])


def test_a_batch_is_learned_by_heart():
    images, targets = rectangles(64, 64)
    net = detector(facts(64, 64), name="rcnn", width=8, crop=24, proposals=SLIDING)
    losses, found = learn_by_heart(net, images, targets)
    assert losses[-1] < losses[0] / 4
    check_detections(found, 4, 64, 64, 3, 100)
    assert found_share(found, targets) >= 0.85


@pytest.mark.parametrize("context", [0.0, 0.25], ids=["tight", "with context"])
def test_crops_are_those_of_a_plain_loop(context):
    random = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 32, 40, generator=random)
    crops = crop_and_warp(images, [BOXES, BOXES[:1] + 5], 6, context)
    assert crops.shape == (4, 3, 6, 6)
    for image, box, crop in zip([images[0]] * 3 + [images[1]], [*BOXES, BOXES[0] + 5], crops, strict=True):
        torch.testing.assert_close(crop, cropped_naively(image, box.tolist(), 6, context))


def cropped_naively(image, box, side, context):
    """Each pixel of the crop: the mean of 2 x 2 points, each read between the four pixels around it."""
    x0, y0, x1, y1 = box
    wide, tall = x1 - x0, y1 - y0
    x0, y0, wide, tall = x0 - wide * context / 2, y0 - tall * context / 2, wide * (1 + context), tall * (1 + context)
    crop = torch.zeros(image.shape[0], side, side)
    for i in range(side):
        for j in range(side):
            for a in (0.25, 0.75):
                for b in (0.25, 0.75):
                    crop[:, i, j] += read(image, y0 + (i + a) * tall / side, x0 + (j + b) * wide / side) / 4
    return crop


def read(image, y, x):
    """The value at a point, where pixel (0, 0) covers 0..1; up to half a pixel outside is the edge, beyond is 0."""
    height, width = image.shape[1:]
    y, x = y - 0.5, x - 0.5
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(image.shape[0])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    above = image[:, top, left] * (left + 1 - x) + image[:, top, right] * (x - left)
    below = image[:, bottom, left] * (left + 1 - x) + image[:, bottom, right] * (x - left)
    return above * (top + 1 - y) + below * (y - top)


def test_a_region_larger_than_the_crop_is_as_pillow_resizes_it():
    y, x = np.mgrid[:64, :64].astype(np.float32)
    smooth = np.sin(x / 9) + np.cos(y / 7)
    box = (8.0, 12.0, 56.0, 60.0)  # twice the crop: what Pillow's box filter averages, 2 x 2 samples are
    expected = Image.fromarray(smooth).resize((24, 24), Image.Resampling.BOX, box=box)
    crop = crop_and_warp(torch.from_numpy(smooth)[None, None], [torch.tensor([box])], 24, 0.0)
    torch.testing.assert_close(crop[0, 0], torch.from_numpy(np.array(expected)), rtol=0, atol=1e-5)


def test_outside_the_picture_is_the_mean_colour():
    crop = crop_and_warp(torch.ones(1, 3, 20, 20), [torch.tensor([[0.0, 0.0, 10.0, 10.0]])], 12, 1.0)[0, 0]
    assert (crop[:2, :] == 0).all()
    assert (crop[:, :2] == 0).all()
    assert (crop[4:, 4:] == 1).all()


def test_few_crops_at_a_time_are_all_crops(monkeypatch):
    images, _ = rectangles(64, 64, 2)
    net = detector(facts(64, 64), name="rcnn", width=4, crop=16).eval()
    with torch.no_grad():
        _, at_once = net(images)
        monkeypatch.setattr(rcnn, "CROPS_AT_ONCE", 37)
        _, piecewise = net(images)
    torch.testing.assert_close(at_once.boxes_xyxy, piecewise.boxes_xyxy)


def test_pictures_without_objects():
    net = detector(facts(64, 64), name="rcnn", width=4, crop=16)
    for images, targets in (rectangles(64, 64, 3, empty=(1,)), rectangles(64, 64, 3, empty=(0, 1, 2))):
        terms, _ = net(images, targets)
        net.zero_grad()
        total(terms).backward()
        assert all(torch.isfinite(term.mean) for term in terms.values())
        assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    assert terms["box"].mean == 0


def test_one_class_on_a_wide_picture():
    images, targets = rectangles(32, 96, 2, classes=1)
    net = detector(facts(32, 96, 1), name="rcnn", width=4, crop=16, max_detections=7)
    terms, none = net(images, targets)
    assert none is None
    assert list(terms) == ["class", "box"]
    assert all(torch.isfinite(term.mean) for term in terms.values())
    net.eval()
    with torch.no_grad():
        check_detections(net(images.float())[1], 2, 32, 96, 1, 7)
