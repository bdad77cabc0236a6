"""Pictures of boxes: what is drawn where, in which colour, at which size."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from mlcli.show.boxes import COLOURS, Thing, colour_of, drawn
from mlcli.show.drawing import readable_side
from mlcli.show.palette import INK
from mlcli.tasks.detection.boxes import iou_matrix
from mlcli.tasks.detection.evaluation.metrics import DetectionMetrics
from mlcli.tasks.detection.masks import run_length
from mlcli.tasks.detection.models.anchors import default_boxes
from mlcli.tasks.detection.models.detector import Detector
from mlcli.tasks.detection.models.matching import max_iou
from mlcli.tasks.detection.nms import nms
from mlcli.tasks.detection.pictures.inspection import inspection_pictures
from mlcli.tasks.detection.pictures.sheets import (
    anchors_and_matches,
    annotate,
    answer_sheets,
    batch_sheet,
    before_and_after_nms,
    mistakes_by_picture,
)
from mlcli.tasks.detection.targets import Targets
from tests.tasks.detection.overfit import detector, facts
from tests.tasks.detection.published import feed, made_up, records_of

DRAWS = True


def count(image: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(image) == np.array(colour)).all(axis=2).sum())


def where(image: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """left, top, right, bottom of the pixels of a colour"""
    rows, columns = np.nonzero((np.asarray(image) == np.array(colour)).all(axis=2))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_colours_of_many_classes_differ():
    colours = np.array([colour_of(label) for label in range(1, 41)], dtype=int)
    apart = np.abs(colours[:, None] - colours).sum(axis=2) + 1000 * np.eye(40, dtype=int)
    assert apart[:10, :10].min() > 70
    assert apart.min() > 15
    assert len({colour_of(label) for label in range(1, 201)}) == 200


@pytest.mark.parametrize("size", [(32, 24), (400, 300), (2000, 1500)], ids=["tiny", "medium", "large"])
def test_a_box_is_drawn_around_its_object_at_any_size(size):
    width, height = size
    box = (0.25 * width, 0.25 * height, 0.75 * width, 0.5 * height)
    image = Image.new("RGB", size, (128, 128, 128))
    side = readable_side(image, 320, 960)
    assert 320 <= side <= 960
    shown = drawn(image, [Thing(box, (1, 200, 3))], side)
    assert max(shown.size) == side
    factor = side / width
    assert where(shown, (1, 200, 3)) == pytest.approx([factor * edge for edge in box], abs=3)


def test_tiny_pictures_keep_sharp_pixels():
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    shown = drawn(Image.fromarray(pixels), [], readable_side(Image.fromarray(pixels), 320, 960))
    assert shown.size == (320, 320)
    assert (np.asarray(shown)[20::40, 20::40] == pixels).all()


def test_dashes_and_thin_lines_leave_more_of_the_picture():
    image, box = Image.new("RGB", (400, 400), "white"), (50, 50, 350, 350)
    full, dashed, thin = (
        count(drawn(image, [Thing(box, (1, 2, 250), **how)], 400), (1, 2, 250))
        for how in ({}, {"dashed": True}, {"thin": True})
    )
    assert 0.4 * full < dashed < 0.7 * full
    assert thin < 0.7 * full
    assert count(drawn(image, [Thing((200, 200, 200, 200), (1, 2, 250))], 400), (1, 2, 250)) > 4  # a dot


def test_names_hide_neither_each_other_nor_small_boxes():
    image = Image.new("RGB", (400, 400), "white")
    things = [Thing((300, 2, 320, 16), (250, 0, 1), "one"), Thing((300, 2, 321, 16), (0, 250, 1), "two")]
    shown = drawn(image, things, 400)
    for thing in things:
        left, _, right, _ = where(shown, thing.colour)
        assert right - left > 25, "the name is wider than the box"
        assert left >= 0
        assert right < 400
    assert np.asarray(shown)[9, 310].tolist() == [255, 255, 255], "what is in the box is seen"


def crowd(step: int) -> list[Thing]:
    """Boxes of 40 pixels, of two classes, in rows and columns `step` pixels apart."""
    corners = [(x, y) for y in range(20, 340, step) for x in range(20, 340, step)]
    return [
        Thing((x, y, x + 40, y + 40), ((250, 0, 1), (0, 250, 1))[n % 2], ("a long name", "two")[n % 2], "87%")
        for n, (x, y) in enumerate(corners)
    ]


def seen(shown: Image.Image, things: list[Thing]) -> float:
    """Share of the pixels inside boxes, lines apart, that are still the picture's white."""
    pixels = (np.asarray(shown) == 255).all(axis=2)
    inside = [pixels[int(y) + 4 : int(y) + 36, int(x) + 4 : int(x) + 36] for (x, y, _, _), *_ in things]
    return float(np.mean(inside))


@pytest.mark.parametrize(("step", "says"), [(110, "all"), (60, "scores"), (42, "nothing")])
def test_names_that_would_hide_the_objects_stand_below_the_picture(step, says):
    image, things = Image.new("RGB", (400, 400), "white"), crowd(step)
    shown = drawn(image, things, 400)
    assert seen(shown, things) > 0.93
    assert (shown.height > 400) == (says != "all")
    plain = drawn(image, [thing._replace(caption="", detail="") for thing in things], 400)
    marked = count(shown.crop((0, 0, 400, 400)), (0, 250, 1)) - count(plain, (0, 250, 1))
    assert (marked > 0) == (says != "nothing")
    legend = shown.crop((0, 400, *shown.size))
    assert all((count(legend, colour) > 100) == (says != "all") for colour in ((250, 0, 1), (0, 250, 1)))


def test_a_name_alone_stands_in_its_box_where_that_fills_the_picture():
    image = Image.new("RGB", (400, 150), "white")
    assert drawn(image, [Thing((0, 0, 400, 150), (250, 0, 1), "a long name")], 240).size == (240, 90)


def test_a_legend_of_many_names_takes_more_lines():
    image = Image.new("RGB", (400, 400), "white")
    things = [thing._replace(caption=f"class {n}", colour=(n, 200, 3)) for n, thing in enumerate(crowd(42))]
    legend = drawn(image, things, 400)
    assert legend.height > 500
    assert all(count(legend.crop((0, 400, *legend.size)), thing.colour) > 100 for thing in things)


def test_the_lines_of_small_boxes_leave_what_is_in_them():
    image, things = Image.new("RGB", (1200, 1200), "white"), [Thing((600, 600, 612, 612), (250, 0, 1))]
    assert (np.asarray(drawn(image, things, 1200))[602:610, 602:610] == 255).all()


def test_masks_tint_the_pixels_inside():
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:30, 10:30] = True
    shown = np.asarray(
        drawn(Image.new("RGB", (40, 40), "black"), [Thing((5, 5, 35, 35), (200, 100, 0), mask=mask)], 400)
    )
    assert shown[200, 200].tolist() == [90, 45, 0]
    assert shown[70, 200].tolist() == [0, 0, 0]


def test_an_annotated_file_shows_every_object(tmp_path):
    Image.new("RGB", (600, 400), "white").save(tmp_path / "a.png")
    mask = np.zeros((400, 600), dtype=bool)
    mask[100:200, 300:400] = True
    record = {
        "objects": [
            {"label": "b", "score": 0.91, "bbox": [300, 100, 100, 100], "segmentation": run_length(mask)},
            {"label": "a", "score": 0.5, "bbox": [20, 30, 100, 200]},
        ]
    }
    shown = annotate(tmp_path / "a.png", record, ("a", "b"))
    assert shown.size == (600, 400)
    left, _, right, bottom = where(shown, colour_of(1))
    assert (left, right) == (pytest.approx(20, abs=2), pytest.approx(120, abs=2))
    assert bottom == pytest.approx(230, abs=2)
    assert count(shown, colour_of(2)) > 500
    assert not (np.asarray(shown)[150, 350] == 255).all()


def scene() -> tuple[torch.Tensor, Targets]:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (3, 3, 64, 64), generator=random, dtype=torch.uint8)
    boxes = torch.tensor([[[4.0, 4, 30, 40], [30, 20, 60, 60]], [[10, 10, 50, 50], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 2])
    return images, Targets(boxes, torch.tensor([[1, 2], [3, 0], [0, 0]]))


def test_a_batch_shows_its_objects_and_not_its_padding():
    images, targets = scene()
    page = batch_sheet(images, targets, ("a", "b", "c"))
    assert all(count(page, colour_of(label)) > 300 for label in (1, 2, 3))
    empty = batch_sheet(images[2:], targets[2:], ("a", "b", "c"))
    assert not any(count(empty, colour) for colour in COLOURS)


def test_anchors_and_suppression_are_drawn():
    images, targets = scene()
    anchors = default_boxes((64, 64), [(8, 8)], [[2, 3]], min_scale=0.4)
    boxes, labels = targets.boxes_xyxy[0], targets.labels[0]
    matched = max_iou(iou_matrix(boxes, anchors), labels > 0, high=0.5, low=0.3, allow_low_quality=True)
    assert {0, 1} <= set(matched.tolist())
    page = anchors_and_matches(images[0], anchors, boxes, labels, matched, ("a", "b", "c"))
    assert page.width > 1400
    assert count(page, colour_of(2)) > 1000
    padded = torch.cat([boxes, torch.zeros(1, 4)]), torch.cat([labels, torch.zeros(1, dtype=torch.int64)])
    same = anchors_and_matches(images[0], anchors, *padded, matched, ("a", "b", "c"))
    assert (np.asarray(same) == np.asarray(page)).all()
    candidates = boxes.repeat(20, 1) + torch.rand(40, 4, generator=torch.Generator().manual_seed(1)) * 3
    scores, kinds = torch.linspace(0.1, 0.9, 40), labels.repeat(20)
    kept = nms(candidates, scores, 0.5, labels=kinds)
    assert len(kept) == 2
    page = before_and_after_nms(images[0], candidates, scores, kinds, kept, ("a", "b", "c"))
    left, right = page.crop((0, 0, page.width // 2, page.height)), page.crop((page.width // 2, 0, *page.size))
    assert count(left, colour_of(1)) > count(right, colour_of(1)) > 300


def test_sheets_of_an_evaluation_show_truth_answers_and_curves():
    coco, results = made_up(0, pictures=12)
    records = records_of(coco)
    object.__setattr__(records.images, "inputs", torch.full((12, 3, 240, 320), 200, dtype=torch.uint8))
    metrics = DetectionMetrics(records, tuple("abcde"))
    feed(metrics, results, {k: k for k in range(1, 6)})
    sheets = answer_sheets(records, metrics)
    curves = ["precision and recall", "f1 by threshold", "kinds of mistakes"]
    titles = ["truth and answer", "most mistakes", "confusion", *curves]
    assert list(sheets) == titles
    for sheet in sheets.values():
        assert sheet.width > 500
        assert count(sheet, (255, 255, 255)) > 10_000
    assert count(sheets["truth and answer"], ImageColor.getrgb(INK)) > 1000
    faults = mistakes_by_picture(metrics, 0.0)
    assert faults.sum() == metrics.matches.wrong.sum() + metrics.matches.counted.sum() - metrics.matches.correct.sum()


def test_nothing_seen_gives_no_sheets():
    coco, _ = made_up(0, pictures=3)
    assert answer_sheets(records_of(coco), DetectionMetrics(records_of(coco), tuple("abcde"))) == {}


def test_a_detector_that_does_not_say_its_places_has_no_pictures():
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    targets = Targets(torch.tensor([[[4.0, 4.0, 20.0, 20.0]]]), torch.tensor([[1]]))
    assert inspection_pictures(Detector(1, (32, 32)), images, targets, ("thing",), 0.5) == {}


@pytest.mark.parametrize(
    ("section", "points", "learns"),
    [
        ({"name": "yolo"}, True, True),
        ({"name": "yolo", "head": "anchors"}, False, True),
        ({"name": "ssd"}, False, True),
        ({"name": "rcnn"}, False, True),
        ({"name": "fast_rcnn"}, False, True),
        ({"name": "faster_rcnn"}, False, True),
        ({"name": "retinanet"}, False, True),
        ({"name": "fcos"}, True, False),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_every_detector_says_its_places_and_what_they_learn(section, points, learns):
    net = detector(facts(64, 64), width=4, **section).eval()
    images = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    targets = Targets(torch.tensor([[[10.0, 10.0, 42.0, 42.0], [0, 0, 0, 0]]]), torch.tensor([[1, 0]]))
    with torch.no_grad():
        boxes_xyxy, matched = net.places(images, targets)
    assert boxes_xyxy.shape == (len(matched), 4)
    assert len(matched) > 0
    assert bool((boxes_xyxy[:, :2] == boxes_xyxy[:, 2:]).all()) == points
    assert ((matched == 0).any().item(), (matched > 0).any().item()) == (learns, False)
    near = boxes_xyxy[matched == 0]
    assert ((near[:, :2] < 42) & (near[:, 2:] > 10)).all(), "those that learn the object are near it"
