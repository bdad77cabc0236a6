"""What YOLO in both forms and SSD have in common: they learn, keep to fixed shapes, and take what is not there."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import box_iou

from mlcli.engine.terms import total
from mlcli.tasks.detection.targets import Targets
from tests.reliability.soak import LONG

from .overfit import detector, facts, nothing, two_rectangles

KINDS = {
    "free": {"name": "yolo", "head": "free", "width": 8, "strides": (8, 16)},
    "anchors": {"name": "yolo", "head": "anchors", "width": 8, "strides": (8, 16)},
    "ssd": {"name": "ssd", "width": 8},
}
TERMS = {"free": {"box", "class", "distribution"}, "anchors": {"box", "objectness", "class"}, "ssd": {"box", "class"}}
STEPS = 120
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::masked_select")

long_run = pytest.mark.skipif(not LONG, reason="the long run tries each shape with each kind")
every_kind = pytest.mark.parametrize("kind", KINDS)

SHAPES = {"square": ((64, 64), 3), "wide, one class": ((48, 80), 1)}
IN_THE_LONG_RUN = [("free", "wide, one class"), ("anchors", "square"), ("ssd", "wide, one class")]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("free", "square"),
        ("anchors", "wide, one class"),
        ("ssd", "square"),
        *(pytest.param(*both, marks=long_run) for both in IN_THE_LONG_RUN),
    ],
)
def test_a_batch_is_learned_by_heart(kind, shape):
    size, classes = SHAPES[shape]
    images, targets = two_rectangles(6, *size, classes)
    net = detector(facts(*size, classes), **KINDS[kind])
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    cooling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        terms, detections = net(images, targets)
        assert detections is None
        assert set(terms) == TERMS[kind]
        optimizer.zero_grad()
        total(terms).backward()
        optimizer.step()
        cooling.step()
    net.eval()
    with torch.no_grad():
        terms, found = net(images, targets)
    assert set(terms) == TERMS[kind]
    for image in range(len(images)):
        there = targets.valid[image]
        best, which = box_iou(targets.boxes_xyxy[image][there], found.boxes_xyxy[image]).max(dim=1)
        assert (best > 0.7).all(), best
        assert torch.equal(found.labels[image][which], targets.labels[image][there])
        assert (found.scores[image] > 0.3).sum() == there.sum(), found.scores[image][:5]


@every_kind
def test_detections_are_inside_sorted_and_end_in_nothing(kind):
    images, _ = two_rectangles(3, 48, 80)
    net = detector(facts(48, 80), **KINDS[kind], score_threshold=0.0, max_detections=150).eval()
    with torch.no_grad():
        terms, found = net(images)
    assert terms == {}
    assert found.boxes_xyxy.shape == (3, 150, 4)
    assert (found.boxes_xyxy >= 0).all()
    assert (found.boxes_xyxy <= torch.tensor([80.0, 48.0, 80.0, 48.0])).all()
    assert (found.scores.diff(dim=1) <= 0).all()
    assert torch.equal(found.labels > 0, found.scores > 0)
    assert found.labels.max() <= 3


@every_kind
def test_what_is_found_in_a_picture_does_not_depend_on_its_batch(kind):
    images, _ = two_rectangles(3, 64, 64)
    # Nothing is suppressed: overlaps next to the threshold would fall to either side with the last bit.
    net = detector(facts(64, 64), **KINDS[kind], score_threshold=0.0, max_detections=20, nms_iou=1.0).eval()
    with torch.no_grad():
        together = net(images)[1]
        for image in range(3):
            alone = net(images[image : image + 1])[1]
            assert torch.allclose(alone.scores[0], together.scores[image], atol=1e-5)
            near = (alone.boxes_xyxy[0][:, None] - together.boxes_xyxy[image]).abs().amax(dim=-1) < 1e-2
            same = near & (alone.labels[0][:, None] == together.labels[image])
            assert same[:-1].any(dim=1).all()  # equal scores may change places, and the last one may just miss the cut


@every_kind
@pytest.mark.parametrize("rows", [0, 3], ids=["no rows", "padding"])
def test_pictures_without_objects_teach_no_box(kind, rows):
    images, _ = two_rectangles(2, 64, 64)
    net = detector(facts(64, 64), **KINDS[kind])
    terms, _ = net(images, nothing(2, rows))
    assert terms["box"].mean == 0
    assert all(torch.isfinite(term.mean) for term in terms.values())
    total(terms).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@every_kind
def test_padding_changes_nothing(kind):
    images, targets = two_rectangles(2, 64, 64)
    more = Targets(
        torch.cat([targets.boxes_xyxy, torch.zeros(2, 5, 4)], dim=1),
        torch.cat([targets.labels, torch.zeros(2, 5, dtype=torch.int64)], dim=1),
    )
    net = detector(facts(64, 64), **KINDS[kind])
    before, after = net(images, targets)[0], net(images, more)[0]
    for name, term in before.items():
        assert torch.allclose(term.mean, after[name].mean, rtol=1e-5), name


@every_kind
def test_the_order_of_objects_changes_nothing(kind):
    images, targets = two_rectangles(2, 64, 64)
    order = torch.tensor([1, 0, 2])
    net = detector(facts(64, 64), **KINDS[kind])
    before = net(images, targets)[0]
    after = net(images, Targets(targets.boxes_xyxy[:, order], targets.labels[:, order]))[0]
    for name, term in before.items():
        assert torch.allclose(term.mean, after[name].mean, rtol=1e-4), name


@every_kind
def test_training_never_waits_for_the_host(kind):
    images, targets = two_rectangles(2, 64, 64)
    net = detector(facts(64, 64), **KINDS[kind])
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        total(net(images, targets)[0]).backward()
    called = {event.key for event in seen.key_averages()}
    assert "aten::convolution" in called
    assert called.isdisjoint(WAITS)


@every_kind
def test_training_is_one_graph(kind):
    torch._dynamo.reset()
    images, targets = two_rectangles(2, 64, 64)
    net = detector(facts(64, 64), **KINDS[kind])
    plain = net(images, targets)[0]
    graph = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
    for name, term in graph(images, targets)[0].items():
        assert torch.allclose(term.mean, plain[name].mean, rtol=1e-4), name


@every_kind
def test_boxes_are_computed_in_full_precision_under_autocast(kind):
    images, targets = two_rectangles(2, 64, 64)
    net = detector(facts(64, 64), **KINDS[kind])
    exact = net(images, targets)[0]
    with torch.autocast("cpu", torch.bfloat16):
        halved = net(images, targets)[0]
        found = net.eval()(images)[1]
    assert {term.mean.dtype for term in halved.values()} == {torch.float32}
    assert found.boxes_xyxy.dtype == found.scores.dtype == torch.float32
    for name, term in exact.items():
        assert torch.allclose(term.mean, halved[name].mean, rtol=0.1), name
