"""Assignment by the batch is torchvision's own, picture by picture: the same bits of losses and gradients; RetinaNet's
losses, which add up all pictures at once, to rounding."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from mlcli.data.randomness import KeyedRandom
from mlcli.engine.terms import total
from mlcli.tasks.detection.models import batched, torchvision_detectors
from mlcli.tasks.detection.models.batched import matched_anchors, matched_labels, matched_points
from mlcli.tasks.detection.models.matching import KeyedSampler
from mlcli.tasks.detection.targets import Targets

from .overfit import detector, facts

NAMES = ("mask_rcnn", "retinanet", "fcos")
"""Mask R-CNN does all that Faster R-CNN does."""
OPERATIONS = {"mask_rcnn": 75, "retinanet": 10, "fcos": 10}
"""Most operations of a forward pass that each further picture may cost. One by one it was 221, 93 and 43."""


def batch(seed: int, pictures: int = 5, rows: int = 7, side: int = 64) -> tuple[torch.Tensor, Targets]:
    """Noise with boxes at random: some without area, some twice, some over all, one picture with none, rows of nothing
    at the end."""
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(pictures, rows, 2, 2, generator=random) * side
    boxes = torch.cat([corners.amin(2), corners.amax(2)], dim=-1)
    boxes[:, 1] = boxes[:, 0]
    boxes[1, 2] = torch.tensor([0.0, 0.0, side, side])
    boxes[2, 0, 2:] = boxes[2, 0, :2]
    boxes[3, 1] = torch.tensor([10.0, 10.0, 10.5, 10.25])
    labels = torch.randint(1, 4, (pictures, rows), generator=random)
    labels[torch.arange(rows) >= torch.randint(2, rows + 1, (pictures, 1), generator=random)] = 0
    labels[seed % pictures] = 0
    masks = (torch.rand(pictures, rows, side, side, generator=random) > 0.5).to(torch.uint8)
    keys = torch.randint(2**62, (pictures,), generator=random)
    images = torch.randint(0, 256, (pictures, 3, side, side), generator=random, dtype=torch.uint8)
    return images, Targets(boxes * (labels > 0)[..., None], labels, masks, keys=keys)


def one_by_one(net, monkeypatch):
    """Have torchvision assign, each picture by itself."""
    if hasattr(net.net, "rpn"):
        net.net.rpn.__class__, net.net.roi_heads.__class__ = RegionProposalNetwork, RoIHeads
        return

    def theirs(kind):
        def losses(self, targets, outputs, anchors, places):
            found = []
            targets = [target | {"labels": target["labels"] - 1} for target in targets]
            head, self.net.head.compute_loss = self.net.head.compute_loss, lambda *args: found.append(args[-1])
            own = (targets, outputs, anchors) if kind is RetinaNet else (targets, outputs, anchors, places)
            kind.compute_loss(self.net, *own)
            self.net.head.compute_loss = head
            return head(targets, outputs, anchors, found[0]), len(targets)

        return losses

    monkeypatch.setattr(torchvision_detectors.RetinaNetDetector, "losses", theirs(RetinaNet))
    monkeypatch.setattr(torchvision_detectors.FcosDetector, "losses", theirs(FCOS))


def learned(net, images, targets) -> tuple[dict, dict]:
    net.zero_grad()
    terms, _ = net(images, targets)
    total(terms).backward()
    return {name: term.mean for name, term in terms.items()}, {n: p.grad for n, p in net.named_parameters()}


@pytest.mark.parametrize("name", [*NAMES, "retinanet by GIoU"])
def test_losses_and_gradients_are_torchvisions(name, monkeypatch):
    name, _, by_giou = name.partition(" ")

    def make():
        made = detector(facts(64, 64), name=name, width=4)
        if by_giou:  # as torchvision's second version has it
            made.net.head.regression_head._loss_type = "giou"
        return made

    ours = [learned(make(), *batch(seed)) for seed in (0, 1)]
    monkeypatch.setitem(batched.MOST_PAIRS, "cpu", 5000)  # a few pictures at once, not all
    ours.append(learned(make(), *batch(1)))
    theirs = []
    for seed in (0, 1):
        net = make()
        one_by_one(net, monkeypatch)
        theirs.append(learned(net, *batch(seed)))
    for (terms, gradients), (their_terms, their_gradients) in zip(ours, [*theirs, theirs[1]], strict=True):
        rounding = {"rtol": 1e-4, "atol": 1e-6} if name == "retinanet" else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(terms, their_terms, **rounding)
        torch.testing.assert_close(gradients, their_gradients, **rounding)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_what_is_proposed_is_torchvisions(threshold):
    """With a threshold, some boxes are left out before the others are compared."""
    net = detector(facts(64, 64), name="faster_rcnn", width=4).eval()
    net.net.rpn.score_thresh = threshold
    images, _ = batch(0)
    ours = net.propose(images, 30)
    net.net.rpn.__class__ = RegionProposalNetwork
    theirs = net.propose(images, 30)
    assert sum(map(len, ours)) > 0
    assert all(map(torch.equal, ours, theirs))


def test_samples_are_drawn_as_picture_by_picture():
    """The first by each picture's own order: objects up to their share, background for what is left."""
    random = torch.Generator().manual_seed(0)
    labels = [torch.randint(-1, 2, (size,), generator=random) for size in (90, 9, 60, 0)] + [torch.zeros(30)]
    labels.append(torch.ones(30))
    sampler = KeyedSampler(16, 0.25, stream=3)
    sampler.keys = torch.randint(2**62, (len(labels),), generator=random)
    drawn, positive = 0, 0
    for label, key, objects, background in zip(labels, sampler.keys, *sampler(labels), strict=True):
        order = KeyedRandom(key[None], 3).bits((90,))[0, : len(label)].argsort().tolist()
        first = [place for place in order if label[place] >= 1][:4]
        others = [place for place in order if label[place] == 0][: 16 - len(first)]
        assert objects.nonzero().flatten().tolist() == sorted(first)
        assert background.nonzero().flatten().tolist() == sorted(others)
        drawn, positive = drawn + len(first) + len(others), positive + len(first)
    assert (sampler.drawn, sampler.positive) == (drawn, positive)


def test_no_objects_at_all_and_no_regions():
    anchors, none = torch.rand(9, 4), [torch.zeros(0, 4)] * 2
    assert matched_anchors(none, anchors, high=0.5, low=0.4, allow_low_quality=True).tolist() == [[-1] * 9] * 2
    assert matched_points(none, anchors, [6, 3], 1.5).tolist() == [[-1] * 9] * 2
    unlabelled = [torch.zeros(0, dtype=torch.int64)] * 2
    assert matched_labels(unlabelled, torch.full((2, 9), -1)).tolist() == [[0] * 9] * 2
    positive, negative = KeyedSampler(4, 0.5, 0)([torch.tensor([1, 0, 0]), torch.zeros(0, dtype=torch.int64)])
    assert [len(one) for one in (*positive, *negative)] == [3, 0, 3, 0]
    assert positive[0].tolist() == [1, 0, 0]
    assert negative[0].tolist() == [0, 1, 1]


class Counted(TorchDispatchMode):
    """Counts operations that compute, not those that only look at memory in another way."""

    operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += not function.is_view
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_a_further_picture_costs_few_operations(name):
    net, counts = detector(facts(64, 64), name=name, width=4), []
    for pictures in (5, 15):
        images, targets = batch(4, pictures)
        with Counted() as counted:
            net(images, targets)
        counts.append(counted.operations)
    assert (counts[1] - counts[0]) / 10 <= OPERATIONS[name]
