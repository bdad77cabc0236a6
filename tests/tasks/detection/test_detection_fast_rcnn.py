"""Fast R-CNN: regions from outside, pooled as torchvision and a plain loop pool them."""

import math

import pytest
import torch
from torch import nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss

from mlcli.engine.terms import total
from mlcli.tasks.detection.models.proposers import sliding_windows
from mlcli.tasks.detection.models.rcnn import LookAtMap

from .overfit import detector, facts
from .rectangles import check_detections, found_share, learn_by_heart, rectangles

SLIDING = {"method": "sliding", "most": 900}


def with_proposals(targets, proposals_xyxy):
    return targets.__class__(targets.boxes_xyxy, targets.labels, None, proposals_xyxy)


@pytest.mark.parametrize("roi", ["pool", "align"])
def test_a_batch_is_learned_by_heart(roi):
    images, targets = rectangles(64, 64)
    net = detector(facts(64, 64), name="fast_rcnn", width=8, roi=roi, proposals=SLIDING)
    losses, found = learn_by_heart(net, images, targets)
    assert losses[-1] < losses[0] / 2
    check_detections(found, 4, 64, 64, 3, 100)
    assert found_share(found, targets) >= 0.85


def test_the_loss_is_that_of_torchvisions_heads():
    images, targets = rectangles(64, 96)
    net = detector(facts(64, 96), name="fast_rcnn", width=4, proposals=SLIDING)
    net.eval()  # for the batch norms; the heads alone are in training mode
    net.roi_heads.train()
    torch.manual_seed(4)
    features = net.features(net.normalize(images))
    lists = [
        {"boxes": targets.boxes_xyxy[b, :n], "labels": targets.labels[b, :n]}
        for b, n in enumerate(targets.valid.sum(dim=1).tolist())
    ]
    windows = sliding_windows(64, 96, 900)
    regions, _, labels, offsets = RoIHeads.select_training_samples(net.roi_heads, [windows] * 4, lists)
    assert all(len(one) == 64 for one in regions)
    answers = net.roi_heads.box_predictor(net.roi_heads.box_roi_pool.head(pooled_naively(features, regions)))
    expected = fastrcnn_loss(*answers, labels, offsets)

    net.training = True
    torch.manual_seed(4)
    terms, none = net(images, targets)
    assert none is None
    assert list(terms) == ["class", "box"]
    torch.testing.assert_close(tuple(term.mean for term in terms.values()), expected)


def pooled_naively(features, regions):
    """Section 2.1 in plain loops: corners rounded to cells of the map, the maximum of each of 7 x 7 parts."""
    pooled = []
    for map_, boxes in zip(features, regions, strict=True):
        for box in boxes.tolist():
            x0, y0, x1, y1 = (math.floor(edge / 8 + 0.5) for edge in box)
            wide, tall = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)
            cells = map_.new_zeros(map_.shape[0], 7, 7)
            for i in range(7):
                for j in range(7):
                    top, bottom = (
                        min(max(y0 + edge, 0), map_.shape[1])
                        for edge in (math.floor(i * tall / 7), math.ceil((i + 1) * tall / 7))
                    )
                    left, right = (
                        min(max(x0 + edge, 0), map_.shape[2])
                        for edge in (math.floor(j * wide / 7), math.ceil((j + 1) * wide / 7))
                    )
                    if top < bottom and left < right:
                        cells[:, i, j] = map_[:, top:bottom, left:right].amax(dim=(1, 2))
            pooled.append(cells)
    return torch.stack(pooled)


def test_alignment_of_a_whole_ramp_is_the_ramp():
    """A map that says where it is: aligned cells read their own centres, in cells of the map (centres at 0.5)."""
    look = LookAtMap("align", channels=2)
    y, x = torch.meshgrid(torch.arange(16) + 0.5, torch.arange(16) + 0.5, indexing="ij")
    box = torch.tensor([[16.0, 24.0, 72.0, 80.0]])  # cells 2..9 and 3..10: seven of them, a cell each
    cells = look.pool(torch.stack([x, y])[None], [box])[0]
    torch.testing.assert_close(cells[0], (torch.arange(7) + 2.5).expand(7, 7))
    torch.testing.assert_close(cells[1], (torch.arange(7) + 3.5)[:, None].expand(7, 7))


def test_pictures_without_objects():
    net = detector(facts(64, 64), name="fast_rcnn", width=4)
    for images, targets in (rectangles(64, 64, 3, empty=(1,)), rectangles(64, 64, 3, empty=(0, 1, 2))):
        terms, _ = net(images, targets)
        net.zero_grad()
        total(terms).backward()
        assert all(torch.isfinite(term.mean) for term in terms.values())
        assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    assert terms["box"].mean == 0


def test_every_parameter_learns():
    images, targets = rectangles(64, 64)
    net = detector(facts(64, 64), name="fast_rcnn", width=4)
    total(net(images, targets)[0]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_proposals_of_the_batch_are_where_it_looks():
    images, targets = rectangles(64, 96, 2)
    net = detector(
        facts(64, 96), name="fast_rcnn", width=4, score_threshold=0.0, proposals={"method": "selective_search"}
    )
    proposals = torch.zeros(2, 5, 4)
    proposals[0, 1] = torch.tensor([8.0, 8.0, 40.0, 40.0])  # rows of nothing may come first: augmentation leaves gaps
    proposals[0, 3] = torch.tensor([50.0, 10.0, 90.0, 60.0])
    nn.init.zeros_(net.roi_heads.box_predictor.bbox_pred.weight)  # so that boxes stay where they are
    nn.init.zeros_(net.roi_heads.box_predictor.bbox_pred.bias)
    net.eval()
    with torch.no_grad():
        _, found = net(images, with_proposals(targets, proposals))
    check_detections(found, 2, 64, 96, 3, 100)
    assert (found.labels > 0).sum(dim=1).tolist() == [2 * 3, 1 * 3]
    first = {tuple(box.round().tolist()) for box in found.boxes_xyxy[0, :6]}
    assert first == {tuple(proposals[0, 1].tolist()), tuple(proposals[0, 3].tolist())}
    whole = found.boxes_xyxy[1, 0].round().tolist()
    assert whole == [0, 0, 96, 64]  # the whole picture where nothing was proposed
    net.train()
    terms, _ = net(images, with_proposals(targets, torch.zeros(2, 5, 4)))
    assert all(torch.isfinite(term.mean) for term in terms.values())


def test_objects_never_reach_the_detections():
    images, targets = rectangles(64, 64, 2)
    net = detector(facts(64, 64), name="fast_rcnn", width=4).eval()
    with torch.no_grad():
        _, with_objects = net(images, targets)
        _, without = net(images)
    assert torch.equal(with_objects.boxes_xyxy, without.boxes_xyxy)


def test_one_class_on_a_wide_picture_within_limits():
    images, targets = rectangles(32, 96, 2, classes=1)
    info = facts(32, 96, 1)
    net = detector(info, name="fast_rcnn", width=4, max_detections=5, score_threshold=0.0)
    assert all(torch.isfinite(term.mean) for term in net(images, targets)[0].values())
    net.eval()
    with torch.no_grad():
        check_detections(net(images.float())[1], 2, 32, 96, 1, 5)
    sure = detector(info, name="fast_rcnn", width=4, score_threshold=1.0).eval()
    with torch.no_grad():
        assert not sure(images)[1].labels.any()


def test_half_precision_leaves_boxes_exact():
    images, targets = rectangles(32, 512, 1)
    net = detector(facts(32, 512), name="fast_rcnn", width=4, score_threshold=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        terms, _ = net(images, targets)
        assert all(term.mean.dtype == torch.float32 for term in terms.values())
        net.eval()
        with torch.no_grad():
            _, found = net(images)
    check_detections(found, 1, 32, 512, 3, 100)
    assert (found.boxes_xyxy[..., 2] % 1 != 0).any()
