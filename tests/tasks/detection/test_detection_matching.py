"""Matching against detectron2's and d2l's published examples, torchvision's matchers, and naive loops."""

import pytest
import torch
from torchvision.models.detection._utils import Matcher, SSDMatcher

from mlcli.tasks.detection.boxes import iou_matrix
from mlcli.tasks.detection.models.matching import BACKGROUND, IGNORED, bipartite, max_iou, task_aligned
from tests.tasks.detection.test_detection_boxes import random_boxes

# detectron2 tests/modeling/test_matcher.py: matches [1, 1, 2, 0], labels [-1, 1, 0, 1]
PUBLISHED = torch.tensor([[0.15, 0.45, 0.2, 0.6], [0.3, 0.65, 0.05, 0.1], [0.05, 0.4, 0.25, 0.4]])
# d2l.ai, chapter_computer-vision/anchor.md: a dog and a cat
D2L_OBJECTS = torch.tensor([[0.1, 0.08, 0.52, 0.92], [0.55, 0.2, 0.9, 0.88]])
D2L_ANCHORS = torch.tensor(
    [
        [0, 0.1, 0.2, 0.3],
        [0.15, 0.2, 0.4, 0.4],
        [0.63, 0.05, 0.88, 0.98],
        [0.66, 0.45, 0.8, 0.8],
        [0.57, 0.3, 0.92, 0.9],
    ]
)


def all_valid(ious: torch.Tensor) -> torch.Tensor:
    return torch.ones(ious.shape[:-1], dtype=torch.bool)


def random_ious(seed: int, objects: int = 6, anchors: int = 80) -> torch.Tensor:
    return iou_matrix(random_boxes(objects, seed), random_boxes(anchors, seed + 100))


def test_max_iou_on_detectron2s_example():
    found = max_iou(PUBLISHED, all_valid(PUBLISHED), high=0.7, low=0.3, allow_low_quality=True)
    assert found.tolist() == [IGNORED, 1, BACKGROUND, 0]


@pytest.mark.parametrize("allow", [False, True], ids=["strict", "low quality"])
@pytest.mark.parametrize(("high", "low"), [(0.5, 0.5), (0.7, 0.3), (0.5, 0.4)])
def test_max_iou_is_torchvisions(high, low, allow):
    for seed in range(10):
        ious = random_ious(seed)
        assert (ious.amax(dim=1) > 0).all(), "torchvision matches an object that overlaps nothing to everything"
        expected = Matcher(high, low, allow_low_quality_matches=allow)(ious)
        assert max_iou(ious, all_valid(ious), high=high, low=low, allow_low_quality=allow).equal(expected)


def test_an_object_that_overlaps_nothing_gets_nothing():
    ious = torch.tensor([[0.0, 0.0, 0.0], [0.2, 0.0, 0.9]])
    found = max_iou(ious, all_valid(ious), high=0.5, allow_low_quality=True)
    assert found.tolist() == [BACKGROUND, BACKGROUND, 1]


def test_the_d2l_example():
    found = bipartite(iou_matrix(D2L_OBJECTS, D2L_ANCHORS), torch.tensor([True, True]), threshold=0.5)
    assert (found + 1).tolist() == [0, 1, 2, 0, 2]


def naive_bipartite(ious: torch.Tensor, threshold: float) -> list[int]:
    """As d2l describes it, one largest element of the matrix after the other."""
    matched = [int(column.argmax()) if column.max() >= threshold else BACKGROUND for column in ious.T]
    left = ious.clone()
    while left.max() > 0:
        owner, anchor = divmod(int(left.argmax()), ious.shape[1])
        matched[anchor] = owner
        left[owner], left[:, anchor] = 0, 0
    return matched


@pytest.mark.parametrize(("objects", "anchors"), [(6, 80), (12, 12), (9, 5), (1, 1)])
def test_bipartite_is_the_naive_loop(objects, anchors):
    for seed in range(20):
        ious = random_ious(seed, objects, anchors)
        assert bipartite(ious, all_valid(ious), threshold=0.3).tolist() == naive_bipartite(ious, 0.3)


def test_bipartite_is_torchvisions_where_no_two_objects_want_one_anchor():
    compared = 0
    for seed in range(40):
        ious = random_ious(seed, 4, 200)
        if len(ious.argmax(dim=1).unique()) == 4:
            assert bipartite(ious, all_valid(ious), threshold=0.5).equal(SSDMatcher(0.5)(ious))
            compared += 1
    assert compared > 20


def naive_task_aligned(scores, ious, inside, topk, alpha, beta):
    """Section 3.2 of TOOD, an object and a point at a time."""
    objects, points = scores.shape
    alignment = [[float(scores[m, a] ** alpha * ious[m, a] ** beta) for a in range(points)] for m in range(objects)]
    wanted: dict[int, list[int]] = {}
    for m in range(objects):
        ranked = sorted((a for a in range(points) if inside[m, a]), key=lambda a: -alignment[m][a])
        for a in ranked[:topk]:
            wanted.setdefault(a, []).append(m)
    owner = {a: max(rivals, key=lambda m: ious[m, a]) for a, rivals in wanted.items()}
    quality = [0.0] * points
    for a, m in owner.items():
        mine = [b for b, other in owner.items() if other == m]
        best = max(alignment[m][b] for b in mine)
        quality[a] = alignment[m][a] / best * max(float(ious[m, b]) for b in mine)
    return [owner.get(a, BACKGROUND) for a in range(points)], quality


@pytest.mark.parametrize(("topk", "alpha", "beta"), [(3, 1.0, 6.0), (13, 0.5, 2.0), (1000, 1.0, 1.0)])
def test_task_alignment_is_the_naive_loop(topk, alpha, beta):
    random = torch.Generator().manual_seed(0)
    boxes, points = random_boxes(5, 1), torch.rand(300, 2, dtype=torch.float64, generator=random) * 200
    scores = torch.rand(5, 300, dtype=torch.float64, generator=random)
    ious = torch.rand(5, 300, dtype=torch.float64, generator=random) * 0.9 + 0.05
    inside = ((points > boxes[:, None, :2]) & (points < boxes[:, None, 2:])).all(dim=-1)
    assert (inside.sum(0) > 1).any(), "some points are wanted by two"
    matched, quality = task_aligned(
        scores, ious, points, boxes, torch.ones(5, dtype=torch.bool), topk=topk, alpha=alpha, beta=beta
    )
    expected, expected_quality = naive_task_aligned(scores, ious, inside, topk, alpha, beta)
    assert matched.tolist() == expected
    assert quality.tolist() == pytest.approx(expected_quality)


def aligned(ious: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    points = torch.linspace(10, 90, ious.shape[-1])[:, None].expand(-1, 2)
    everywhere = torch.tensor([0.0, 0, 100, 100]).expand(*ious.shape[:-1], 4)
    return task_aligned(torch.full_like(ious, 0.5), ious, points, everywhere, valid)[0]


MATCHERS = {
    "max_iou": lambda ious, valid: max_iou(ious, valid, high=0.5, low=0.3, allow_low_quality=True),
    "bipartite": lambda ious, valid: bipartite(ious, valid, threshold=0.5),
    "task_aligned": aligned,
}


@pytest.mark.parametrize("match", MATCHERS.values(), ids=MATCHERS)
def test_padding_and_batches_change_nothing(match):
    ious = torch.stack([random_ious(seed, 6, 40).float() for seed in range(4)])
    valid = torch.arange(6) < torch.tensor([6, 3, 1, 0])[:, None]
    together = match(ious, valid)
    for image, count in enumerate([6, 3, 1, 0]):
        alone = match(ious[image, :count], torch.ones(count, dtype=torch.bool))
        assert together[image].equal(alone)
    assert (together[3] == BACKGROUND).all()
    assert (together[0] >= 0).any()
