"""YOLO: what cells predict is decoded as the papers write it, and objects go to the cells that they should."""

import math

import pytest
import torch
from pydantic import ValidationError
from torchvision.ops import box_iou

from mlcli.tasks.detection.models.matching import BACKGROUND, IGNORED
from mlcli.tasks.detection.models.yolo import ALPHA, BETA, BINS, TOPK
from mlcli.tasks.detection.models.yolo_anchors import CENTRE_REACH, IGNORE_IOU, POSITIVE_IOU
from mlcli.tasks.detection.targets import Targets

from .overfit import detector, facts, two_rectangles

ANCHORS = [[6.0, 8.0], [12.0, 10.0], [18.0, 30.0], [40.0, 24.0]]


@pytest.fixture
def free():
    return detector(facts(40, 60), name="yolo", width=4, strides=(8, 16)).head


@pytest.fixture
def anchored():
    info = facts(40, 60, anchors_wh=ANCHORS)
    return detector(info, name="yolo", head="anchors", width=4, strides=(8, 16), anchors_per_stride=2).head


def objects(*rows: tuple[float, float, float, float]) -> Targets:
    """One picture with objects of classes 1, 2, 3, 1, ... and a row that stands for nothing."""
    boxes = torch.tensor([*rows, (0, 0, 0, 0)], dtype=torch.float32)
    labels = torch.tensor([1 + index % 3 for index in range(len(rows))] + [0])
    return Targets(boxes[None], labels[None])


def test_free_boxes_are_expected_distances_around_the_cell(free):
    random = torch.Generator().manual_seed(0)
    predictions = torch.randn(2, 5 * 8 + 3 * 4, 4 * BINS + 3, generator=random)
    boxes_xyxy, logits = free.read(predictions)
    row, column, stride = 2, 3, 16
    cell = 5 * 8 + row * 4 + column
    sides = []
    for side in range(4):
        raw = predictions[1, cell, side * BINS : (side + 1) * BINS].tolist()
        total = sum(math.exp(value) for value in raw)
        sides.append(sum(math.exp(value) / total * strides for strides, value in enumerate(raw)) * stride)
    x, y = (column + 0.5) * stride, (row + 0.5) * stride
    assert boxes_xyxy[1, cell].tolist() == pytest.approx([x - sides[0], y - sides[1], x + sides[2], y + sides[3]], 1e-4)
    assert torch.equal(logits, predictions[..., 4 * BINS :])


def test_free_objects_go_to_the_cells_that_do_best_at_them(free):
    random = torch.Generator().manual_seed(1)
    predictions = torch.randn(1, 52, 4 * BINS + 3, generator=random)
    boxes_xyxy, logits = free.read(predictions)
    targets = objects((2, 2, 50, 38), (10, 5, 58, 30), (20, 10, 28, 18))
    matched, quality = free.assign(boxes_xyxy, logits.sigmoid(), targets)

    ious, scores = box_iou(targets.boxes_xyxy[0], boxes_xyxy[0]), logits[0].sigmoid()
    wishes: dict[int, list[int]] = {}  # cell -> objects that want it
    alignment = torch.zeros(3, 52)
    for thing in range(3):
        left, top, right, bottom = targets.boxes_xyxy[0, thing].tolist()
        for cell, (x, y) in enumerate(free.centres_xy.tolist()):
            inside = abs(x - (left + right) / 2) < max(right - left, 12) / 2
            if inside and abs(y - (top + bottom) / 2) < max(bottom - top, 12) / 2:
                score = scores[cell, targets.labels[0, thing] - 1]
                alignment[thing, cell] = score**ALPHA * ious[thing, cell] ** BETA
        for cell in alignment[thing].argsort(descending=True)[:TOPK].tolist():
            if alignment[thing, cell] > 0:
                wishes.setdefault(cell, []).append(thing)
    expected = [max(wishes.get(cell, [-1]), key=lambda thing: ious[thing, cell]) for cell in range(52)]
    assert matched[0].tolist() == expected
    assert {0, 1, 2} <= set(expected)
    for thing in range(3):
        mine = matched[0] == thing
        scaled = alignment[thing, mine] / alignment[thing, mine].max() * ious[thing, mine].max()
        assert torch.allclose(quality[0, mine], scaled, rtol=1e-3)
    assert not quality[0, matched[0] < 0].any()


@pytest.mark.parametrize("box", [(8, 8, 9, 9), (0, 0, 1, 1), (15.9, 7.9, 16.1, 8.1)], ids=["border", "corner", "tiny"])
def test_free_objects_between_all_centres_are_learned_by_some_cell(free, box):
    predictions = torch.zeros(1, 52, 4 * BINS + 3)
    boxes_xyxy, logits = free.read(predictions)
    matched, quality = free.assign(boxes_xyxy, logits.sigmoid(), objects(box))
    assert (matched == 0).any()
    assert quality[matched == 0].max() > 0


def test_anchored_boxes_are_shifted_and_scaled_anchors(anchored):
    random = torch.Generator().manual_seed(0)
    predictions = torch.randn(2, (5 * 8 + 3 * 4) * 2, 5 + 3, generator=random)
    boxes_xyxy, objectness, logits = anchored.read(predictions)
    row, column, stride, anchor = 1, 3, 16, 1
    place = (5 * 8 + row * 4 + column) * 2 + anchor
    tx, ty, tw, th, presence, *classes = predictions[1, place].tolist()
    x = (column + 0.5 + CENTRE_REACH * (1 / (1 + math.exp(-tx)) - 0.5)) * stride
    y = (row + 0.5 + CENTRE_REACH * (1 / (1 + math.exp(-ty)) - 0.5)) * stride
    w, h = 40 * math.exp(tw), 24 * math.exp(th)
    assert boxes_xyxy[1, place].tolist() == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1e-4)
    assert objectness[1, place] == presence
    assert logits[1, place].tolist() == classes


def test_anchored_objects_go_to_the_anchors_they_fit_in_the_cell_of_their_centre(anchored):
    """Among them two with one centre, one that fits no anchor well, and one whose centre is on the far border."""
    twins, lone = (
        [(11, 12, 51, 36), (22, 4, 40, 44)],
        [(1, 1, 7, 10), (4, 30, 5, 31), (40, 30, 60, 50), (44, 2, 56, 12)],
    )
    targets = objects(*twins, *lone)
    matched = anchored.assign(targets)[0].tolist()

    anchors = torch.tensor(ANCHORS)
    expected = torch.full((104,), BACKGROUND)
    layout = [(8, 8, 5, 0, (0, 1)), (16, 4, 3, 80, (2, 3))]  # stride, columns, rows, first box, its anchors
    for stride, columns, rows, first, own in layout:
        for row in range(rows):
            for column in range(columns):
                for slot, anchor in enumerate(own):
                    centre = torch.tensor([column + 0.5, row + 0.5]) * stride
                    box = torch.cat((centre - anchors[anchor] / 2, centre + anchors[anchor] / 2))
                    if (box_iou(box[None], targets.boxes_xyxy[0]) > IGNORE_IOU).any():
                        expected[first + (row * columns + column) * 2 + slot] = IGNORED
    claims: dict[int, tuple[bool, int]] = {}
    for thing, (left, top, right, bottom) in enumerate(targets.boxes_xyxy[0, :-1].tolist()):
        size = torch.tensor([[0, 0, right - left, bottom - top]])
        fits = box_iou(size, torch.cat((torch.zeros(4, 2), anchors), dim=1))[0].tolist()
        for stride, columns, rows, first, own in layout:
            column = min(int((left + right) / 2 / stride), columns - 1)
            row = min(int((top + bottom) / 2 / stride), rows - 1)
            for slot, anchor in enumerate(own):
                if fits[anchor] == max(fits) or fits[anchor] > POSITIVE_IOU:
                    place = first + (row * columns + column) * 2 + slot
                    claims[place] = max(claims.get(place, (False, -1)), (fits[anchor] == max(fits), thing))
    for place, (_, thing) in claims.items():
        expected[place] = thing
    assert matched == expected.tolist()
    assert set(matched) == {BACKGROUND, IGNORED, 0, 1, 2, 3, 4, 5}


def test_without_fitted_anchors_sizes_are_spread_from_small_to_large():
    head = detector(facts(64, 128), name="yolo", head="anchors", width=4).head
    assert head.anchors_wh.shape == (9, 2)
    assert (head.anchors_wh.prod(dim=1).diff() > 0).all()
    assert head.anchors_wh.max() == pytest.approx(64)


@pytest.mark.parametrize("head", ["free", "anchors"])
def test_each_term_is_multiplied_by_what_it_should(head):
    """One term a time: a class that is wrong moves no box, and a box that is wrong no class."""
    images, targets = two_rectangles(2, 64, 64)
    net = detector(facts(64, 64), name="yolo", head=head, width=4).eval()
    with torch.no_grad():
        right, _ = net(images, targets)
        labels = torch.where(targets.labels > 0, targets.labels % 3 + 1, 0)
        other, _ = net(images, Targets(targets.boxes_xyxy, labels))
    assert right["class"] != other["class"]
    if head == "anchors":
        assert right["box"] == other["box"]
        assert right["objectness"] == other["objectness"]


def test_gains_are_factors_and_a_gain_of_nothing_leaves_the_term_out():
    images, targets = two_rectangles(2, 64, 64)
    plain, other = (
        detector(facts(64, 64), name="yolo", width=4, **gains)(images, targets)[0]
        for gains in (
            {"box_gain": 1.0, "class_gain": 1.0, "distribution_gain": 1.0},
            {"box_gain": 3.0, "class_gain": 0.5, "distribution_gain": 0.0},
        )
    )
    assert set(plain) == {"box", "class", "distribution"}
    assert set(other) == {"box", "class"}
    assert (other["box"].mean / plain["box"].mean).item() == pytest.approx(3.0)
    assert (other["class"].mean / plain["class"].mean).item() == pytest.approx(0.5)


@pytest.mark.parametrize("head", ["free", "anchors"])
def test_few_and_many_classes_start_alike(head):
    """Or the class term of a thousand classes would be a thousand times that of one, and drown the boxes."""
    images, targets = two_rectangles(2, 64, 64, 1)
    start = {}
    for classes in (1, 3, 80, 1203):
        net = detector(facts(64, 64, classes), name="yolo", head=head, width=4, strides=(8, 16))
        term = net(images, targets)[0]["class"].mean
        pull = torch.autograd.grad(term, list(net.neck.parameters()), allow_unused=True)
        start[classes] = term.item(), sum(one.square().sum().item() for one in pull if one is not None) ** 0.5
    for classes, (loss, slope) in start.items():
        assert loss < 20, (classes, loss)
        assert slope < 8 * start[1][1], (classes, slope, start[1][1])


def test_distances_are_learned_in_strides_of_each_map(free):
    """A distribution that says where the box is costs no more than its entropy; one that is off costs more."""
    targets = objects((4, 4, 52, 36))
    right = torch.full((1, 52, 4, BINS), -20.0)
    for cell, ((x, y), stride) in enumerate(zip(free.centres_xy.tolist(), free.strides.tolist(), strict=True)):
        for side, distance in enumerate((x - 4, y - 4, 52 - x, 36 - y)):
            strides = max(0.0, distance / stride)
            below = min(int(strides), BINS - 2)
            right[0, cell, side, below] = math.log(max(1e-9, 1 - (strides - below)))
            right[0, cell, side, below + 1] = math.log(max(1e-9, strides - below))
    scores = torch.zeros(1, 52, 3)
    exact, shifted = (
        free.losses(torch.cat((where.flatten(2), scores), dim=-1), targets) for where in (right, right.roll(1, dims=-1))
    )
    assert float(exact["box"].mean) == pytest.approx(0, abs=1e-3)
    assert float(exact["distribution"].mean) <= free.distribution_gain * math.log(2)
    assert float(shifted["distribution"].mean) > 2 * free.distribution_gain * math.log(2)


@pytest.mark.parametrize("strides", [[8, 32], [16, 8]], ids=["gap", "falling"])
def test_strides_that_do_not_double_are_refused(strides):
    with pytest.raises(ValidationError, match="twice the one before"):
        detector(facts(64, 64), name="yolo", strides=strides)
