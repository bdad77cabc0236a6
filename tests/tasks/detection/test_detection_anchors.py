"""Default boxes against torchvision's generator, and k-means by its promise."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from mlcli.errors import DataError
from mlcli.tasks.detection.boxes import convert, iou_matrix
from mlcli.tasks.detection.models.anchors import default_boxes, grid_points, kmeans_anchors


def test_points_are_the_middles_of_cells():
    assert grid_points(2, 3, 8).tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    boxes = default_boxes((16, 24), [(2, 3)], [[]])
    torch.testing.assert_close(convert(boxes, "xyxy", "cxcywh")[::2, :2], grid_points(2, 3, 8))


@pytest.mark.parametrize("image_size", [(300, 300), (192, 256)], ids=["square", "wide"])
def test_default_boxes_are_torchvisions(image_size):
    feature_sizes, ratios = [(12, 16), (6, 8), (3, 4), (1, 1)], [[2], [2, 3], [2, 3], [2]]
    generator = DefaultBoxGenerator(ratios, min_ratio=0.15, max_ratio=0.9, clip=False)
    images = ImageList(torch.zeros(1, 3, *image_size), [image_size])
    theirs = generator(images, [torch.zeros(1, 1, *size) for size in feature_sizes])[0]
    ours = default_boxes(image_size, feature_sizes, ratios, min_scale=0.15, max_scale=0.9)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


def test_one_level_has_boxes_too():
    boxes = convert(default_boxes((100, 100), [(1, 1)], [[4]], min_scale=0.25), "xyxy", "cxcywh")
    torch.testing.assert_close(boxes[:, :2], torch.full((4, 2), 50.0))
    torch.testing.assert_close(boxes[:, 2:], torch.tensor([[25, 25], [50, 50], [50, 12.5], [12.5, 50]]))


def clusters(seed: int = 0) -> torch.Tensor:
    """300 sizes around each of (10, 12), (60, 20) and (80, 90)"""
    random = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[80.0, 90], [10, 12], [60, 20]]).repeat_interleave(300, dim=0)
    return centres * (1 + 0.1 * torch.randn(900, 2, generator=random)).clamp(0.6, 1.4)


def test_kmeans_finds_the_sizes_there_are_by_area():
    anchors, mean_iou, recall = kmeans_anchors(clusters(), 3)
    torch.testing.assert_close(anchors, torch.tensor([[10.0, 12], [60, 20], [80, 90]]), rtol=0.05, atol=0)
    assert mean_iou > 0.85
    assert recall == 1.0


def test_what_kmeans_says_of_its_anchors_is_true():
    sizes = clusters(1)
    anchors, mean_iou, recall = kmeans_anchors(sizes, 2)
    centred = [torch.cat([-wh / 2, wh / 2], dim=1) for wh in (sizes, anchors)]
    best = iou_matrix(*centred).amax(dim=1)
    assert mean_iou == pytest.approx(best.mean().item(), abs=1e-5)
    assert recall == pytest.approx((best >= 0.5).float().mean().item())
    assert 0.5 < recall < 0.7


def test_kmeans_depends_on_its_seed_alone():
    sizes, state = clusters(2), torch.random.get_rng_state()
    assert kmeans_anchors(sizes, 5, seed=3)[0].equal(kmeans_anchors(sizes, 5, seed=3)[0])
    assert torch.random.get_rng_state().equal(state)
    assert kmeans_anchors(sizes, 9)[1] > kmeans_anchors(sizes, 4)[1] > kmeans_anchors(sizes, 1)[1]


def test_fewer_sizes_than_anchors_and_boxes_without_area():
    sizes = torch.tensor([[10.0, 10], [20, 30], [0, 5], [0, 0]])
    anchors, mean_iou, _ = kmeans_anchors(sizes, 4)
    assert anchors.shape == (4, 2)
    assert {tuple(wh) for wh in anchors.tolist()} == {(10, 10), (20, 30)}
    assert mean_iou == 1
    with pytest.raises(DataError, match="no box"):
        kmeans_anchors(sizes[2:], 3)
