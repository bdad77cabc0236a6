"""Suppression: the readable form and the compiled one against each other, d2l's example, and soft-NMS at its limits."""

import pytest
import torch
from torchvision import ops

from mlcli.tasks.detection.boxes import overlap_matrix
from mlcli.tasks.detection.nms import nms, soft_nms, suppress
from tests.tasks.detection.test_detection_boxes import random_boxes


def crowded(seed: int, count: int = 150) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes that overlap a lot, scores all different, labels 1..4; float32"""
    boxes = torch.cat([random_boxes(count // 5, seed)] * 5)
    random = torch.Generator().manual_seed(seed)
    boxes = boxes + torch.rand(boxes.shape, generator=random, dtype=torch.float64) * 8
    scores = (torch.randperm(len(boxes), generator=random) + 1) / (len(boxes) + 1)
    return boxes.float(), scores, torch.randint(1, 5, (len(boxes),), generator=random)


@pytest.mark.parametrize("iou", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_the_readable_nms_keeps_what_torchvision_keeps(iou, seed):
    boxes, scores, labels = crowded(seed)
    assert nms(boxes, scores, iou).equal(ops.nms(boxes, scores, iou))
    assert nms(boxes, scores, iou, labels=labels).equal(ops.batched_nms(boxes, scores, labels, iou))
    assert len(nms(boxes, scores, iou)) < len(nms(boxes, scores, iou, labels=labels)) < len(boxes)


def test_an_overlap_just_at_the_threshold_is_kept():
    """pytorch/vision test/test_ops.py, _create_tensors_with_iou: one box overlaps the most certain by a little more."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5.01]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 1]
    assert nms(boxes[[0, 2]], torch.tensor([0.9, 0.7]), 0.5).tolist() == [0]


def test_the_d2l_example():
    boxes = torch.tensor(
        [[0.1, 0.08, 0.52, 0.92], [0.08, 0.2, 0.56, 0.95], [0.15, 0.3, 0.62, 0.91], [0.55, 0.2, 0.9, 0.88]]
    )
    dog_cat = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9]])
    found = suppress(boxes[None], dog_cat[None], iou=0.5, score_threshold=0.5, max_detections=4)
    assert found.scores[0].tolist() == pytest.approx([0.9, 0.9, 0, 0])
    assert sorted(found.labels[0].tolist()) == [0, 0, 1, 2]
    assert found.boxes_xyxy[0, :2][found.labels[0, :2].argsort()].equal(boxes[[0, 3]])


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_and_one_box(count):
    boxes, scores = torch.tensor([[0.0, 0, 1, 1]])[:count], torch.ones(count)
    labels = torch.ones(count, dtype=torch.int64)
    kept = list(range(count))
    assert nms(boxes, scores, 0.5).tolist() == kept
    assert nms(boxes, scores, 0.5, labels=labels).tolist() == kept
    assert soft_nms(boxes, scores)[0].tolist() == kept


def test_diou_keeps_one_behind_another():
    front, behind = [0.0, 0, 10, 30], [4.0, 0, 14, 30]  # IoU 0.43; their centres 4 pixels apart: DIoU 0.41
    boxes, scores = torch.tensor([front, behind]), torch.tensor([0.9, 0.8])
    assert 0.41 < overlap_matrix(boxes, boxes)[0, 1] < 0.43
    assert nms(boxes, scores, 0.42).tolist() == [0]
    assert nms(boxes, scores, 0.42, "diou").tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_gaussian_soft_nms_with_no_spread_drops_all_that_touch(seed):
    boxes, scores, _ = crowded(seed)
    kept, new_scores = soft_nms(boxes, scores, "gaussian", sigma=1e-9)
    assert kept.equal(ops.nms(boxes, scores, 1e-4))
    assert new_scores.equal(scores[kept])


def naive_soft_nms(boxes, scores, decay, score_threshold):
    """Figure 2 of the paper, with lists."""
    left = dict(enumerate(scores.tolist()))
    kept = []
    while left:
        best = max(left, key=left.__getitem__)
        kept.append((best, left.pop(best)))
        for other in left:
            left[other] *= decay(float(ops.box_iou(boxes[best : best + 1], boxes[other : other + 1])))
    return [(index, score) for index, score in kept if score >= score_threshold]


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_soft_nms_is_the_papers_loop(method):
    boxes, scores, _ = crowded(7, 40)
    decay = {
        "linear": lambda iou: 1 - iou if iou > 0.3 else 1.0,
        "gaussian": lambda iou: float(torch.tensor(-(iou**2) / 0.5).exp()),
    }[method]
    kept, new_scores = soft_nms(boxes, scores, method, score_threshold=0.05)
    expected = naive_soft_nms(boxes, scores, decay, 0.05)
    assert kept.tolist() == [index for index, _ in expected]
    assert new_scores.tolist() == pytest.approx([score for _, score in expected], rel=1e-4)
    assert len(kept) < 40


def test_suppress_gives_each_image_its_own_survivors_in_a_fixed_shape():
    random = torch.Generator().manual_seed(0)
    boxes = random_boxes(60, 1, shape=(3,)).float()
    scores = torch.rand(3, 60, 4, generator=random)
    scores[2] *= 0.05  # an image in which nothing is certain enough
    found = suppress(boxes, scores, iou=0.4, score_threshold=0.1, max_detections=70)
    assert found.boxes_xyxy.shape == (3, 70, 4)
    for image in range(3):
        rows, classes = (scores[image] > 0.1).nonzero(as_tuple=True)
        kept = nms(boxes[image, rows], scores[image, rows, classes], 0.4, labels=classes)[:70]
        count = len(kept)
        assert found.scores[image, :count].equal(scores[image, rows, classes][kept])
        assert found.labels[image, :count].equal(classes[kept] + 1)
        assert found.boxes_xyxy[image, :count].equal(boxes[image, rows][kept])
        for padding in (found.boxes_xyxy, found.scores, found.labels):
            assert (padding[image, count:] == 0).all()
    assert (found.labels[2] == 0).all()
    assert (found.labels[0] > 0).all(), "max_detections cuts"


def one_behind_another() -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes [1, 3, 4] of IoU 0.43 and DIoU 0.41 by pairs, and scores [1, 3, 2]: two of one class, one of another."""
    boxes = torch.tensor([[[0.0, 0, 10, 30], [4, 0, 14, 30], [4, 0, 14, 30]]])
    return boxes, torch.tensor([[[0.9, 0], [0.8, 0], [0, 0.7]]])


@pytest.mark.parametrize(("method", "labels"), [("hard", [1, 2]), ("diou", [1, 1, 2]), ("soft", [1, 2, 1])])
def test_suppress_by_each_method_among_boxes_of_a_class(method, labels):
    boxes, scores = one_behind_another()
    found = suppress(boxes, scores, 0.42, score_threshold=0.1, max_detections=4, method=method)
    assert found.labels[0].tolist() == labels + [0] * (4 - len(labels))
    iou = float(ops.box_iou(boxes[0, :1], boxes[0, 1:2]))
    softened = 0.8 * float(torch.tensor(-(iou**2) / 0.5).exp())
    expected = {"hard": [0.9, 0.7], "diou": [0.9, 0.8, 0.7], "soft": [0.9, 0.7, softened]}[method]
    assert found.scores[0, : len(labels)].tolist() == pytest.approx(expected)


def test_soft_scores_fall_below_the_threshold_and_end_in_nothing():
    boxes, scores = one_behind_another()
    found = suppress(boxes, scores, score_threshold=0.65, max_detections=4, method="soft")
    assert found.labels[0].tolist() == [1, 2, 0, 0]
    few = suppress(boxes, scores, score_threshold=0.1, max_detections=1, method="soft")
    assert few.scores[0].tolist() == pytest.approx([0.9])


@pytest.mark.parametrize("seed", range(3))
def test_soft_nms_by_class_is_soft_nms_of_each_class(seed):
    boxes, scores, labels = crowded(seed)
    kept, new_scores = soft_nms(boxes, scores, labels=labels)
    for label in labels.unique():
        own = (labels == label).nonzero().flatten()
        alone, alone_scores = soft_nms(boxes[own], scores[own])
        mine = labels[kept] == label
        assert kept[mine].equal(own[alone])
        torch.testing.assert_close(new_scores[mine], alone_scores)


@pytest.mark.parametrize("boxes_per_image", [40, 300])
def test_a_batch_is_suppressed_as_image_by_image(boxes_per_image):
    """By torchvision's batched_nms, to the bit; 300 boxes of 6 classes are more than are moved apart on a CPU."""
    generator = torch.Generator().manual_seed(boxes_per_image)
    boxes = torch.stack([random_boxes(boxes_per_image, seed) for seed in range(4)]).float()
    scores = torch.rand(4, boxes_per_image, 6, generator=generator) ** 2
    scores[1] = 0.0
    scores[2, 0, 0] = torch.nan
    found = suppress(boxes, scores, 0.4, 0.05, 30)
    for image in range(4):
        score, place = scores[image].flatten().sort(descending=True, stable=True)
        above = ~(score <= 0.05)
        score, place = score[above], place[above]
        box, label = boxes[image, place // 6], place % 6 + 1
        kept = ops.batched_nms(box, score, label, 0.4)[:30]
        alike = {"rtol": 0, "atol": 0, "equal_nan": True}
        torch.testing.assert_close(found.boxes_xyxy[image, : len(kept)], box[kept], **alike)
        torch.testing.assert_close(found.scores[image, : len(kept)], score[kept], **alike)
        assert torch.equal(found.labels[image, : len(kept)], label[kept])
        assert not found.labels[image, len(kept) :].any()
        assert not found.scores[image, len(kept) :].any()
        assert not found.boxes_xyxy[image, len(kept) :].any()
    assert not found.labels[1].any()


def test_a_batch_is_waited_for_once_beside_nms_itself():
    scores = torch.rand(8, 40, 3, generator=torch.Generator().manual_seed(0))
    boxes = torch.stack([random_boxes(40, seed) for seed in range(8)])
    with torch.profiler.profile() as profile:
        suppress(boxes, scores)
    called = {event.key: event.count for event in profile.key_averages()}
    assert called["torchvision::nms"] == 8
    assert not {"aten::nonzero", "aten::_local_scalar_dense", "aten::item"} & called.keys()
