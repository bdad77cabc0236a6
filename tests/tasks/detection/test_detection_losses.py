"""Losses against torchvision and published numbers."""

import pytest
import torch
from torchvision import ops

from mlcli.tasks.detection.models.losses import box_loss, distribution_focal, hard_negative_mining
from tests.tasks.detection.test_detection_boxes import random_boxes

# pytorch/vision test/test_ops.py and detectron2 tests/layers/test_losses.py
UNIT, HALF, CORNER, APART = [-1.0, -1, 1, 1], [0.0, -1, 1, 1], [0.0, 0, 1, 1], [1.0, 1, 2, 2]


@pytest.mark.parametrize(
    ("kind", "a", "b", "expected"),
    [
        ("giou", UNIT, UNIT, 0.0),
        ("giou", UNIT, CORNER, 0.75),
        ("giou", CORNER, APART, 1.5),
        ("diou", UNIT, HALF, 0.53125),
        ("diou", CORNER, APART, 1.25),
        ("ciou", UNIT, HALF, 0.5345),
        ("ciou", CORNER, APART, 1.25),
        ("iou", CORNER, APART, 1.0),
    ],
)
def test_box_losses_are_as_published(kind, a, b, expected):
    assert box_loss(torch.tensor(a), torch.tensor(b), kind).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_box_losses_and_their_gradients_are_torchvisions(kind):
    oracle = {
        "giou": ops.generalized_box_iou_loss,
        "diou": ops.distance_box_iou_loss,
        "ciou": ops.complete_box_iou_loss,
    }[kind]
    a, b = random_boxes(40, 1), random_boxes(40, 2)
    ours, theirs = a.clone().requires_grad_(), a.clone().requires_grad_()
    torch.testing.assert_close(box_loss(ours, b, kind), oracle(theirs, b), atol=1e-6, rtol=1e-6)
    box_loss(ours, b, kind).sum().backward()
    oracle(theirs, b, reduction="sum").backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)


def test_distributions_are_pulled_to_both_neighbours_of_a_distance():
    """Equation 6 of Li et al. 2020, counted out; whole numbers and both ends among them."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=random).requires_grad_()
    wanted = torch.tensor([0.0, 0.25, 1.0, 2.75, 3.0])
    losses = distribution_focal(logits, wanted)
    logs = logits.detach().double().log_softmax(-1)
    neighbours = [(0, 1, 0.0), (0, 1, 0.25), (1, 2, 0.0), (2, 3, 0.75), (2, 3, 1.0)]
    expected = [-(1 - share) * logs[i, a] - share * logs[i, b] for i, (a, b, share) in enumerate(neighbours)]
    assert losses.tolist() == pytest.approx(torch.stack(expected).tolist(), rel=1e-5)
    for _ in range(400):
        losses = distribution_focal(logits, wanted)
        (slope,) = torch.autograd.grad(losses.sum(), logits)
        logits = (logits - 5 * slope).detach().requires_grad_()
    means = logits.softmax(-1) @ torch.arange(4.0)
    assert means.tolist() == pytest.approx(wanted.tolist(), abs=0.01), "learned, their mean is the distance"


def test_the_hardest_negatives_of_each_image_are_taken():
    random = torch.Generator().manual_seed(0)
    losses = torch.rand(4, 50, generator=random)
    positive = torch.rand(4, 50, generator=random) < torch.tensor([0.1, 0.0, 0.9, 1.0])[:, None]
    chosen = hard_negative_mining(losses, positive, ratio=3)
    for image in range(4):
        negatives = (~positive[image]).nonzero().flatten().tolist()
        hardest = sorted(negatives, key=lambda a: -losses[image, a])[: 3 * int(positive[image].sum())]
        assert chosen[image].nonzero().flatten().tolist() == sorted(hardest)
    assert chosen.sum(1).tolist()[1] == 0
    assert chosen.sum(1).tolist()[0] == 3 * int(positive[0].sum()) > 0
