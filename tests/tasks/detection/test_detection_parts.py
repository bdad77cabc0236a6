"""A step of any detector is the same however it is cut into parts, and so is its loss."""

import pytest
import torch
from torch import nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from mlcli.engine.contract import Batch
from mlcli.engine.terms import mean_loss
from mlcli.tasks.detection.models.matching import KeyedSampler
from tests.engine.parts import check_same, cut, step_gradients
from tests.tasks.detection.overfit import detector, facts
from tests.tasks.detection.rectangles import rectangles

DETECTORS = {
    "yolo free": {"name": "yolo"},
    "yolo anchors": {"name": "yolo", "head": "anchors"},
    "ssd": {"name": "ssd"},
    "rcnn": {"name": "rcnn"},
    "fast_rcnn": {"name": "fast_rcnn"},
    "faster_rcnn": {"name": "faster_rcnn"},
    "mask_rcnn": {"name": "mask_rcnn"},
    "retinanet": {"name": "retinanet"},
    "fcos": {"name": "fcos"},
}


class Detecting:
    """A detector as a task, its batch norms as in use."""

    def __init__(self, **section) -> None:
        self.model = detector(facts(64, 64), **{"width": 4, **section})
        self.counts_alike = self.model.counts_alike
        self.model.train()
        for layer in self.model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()

    def lr_scale(self, name):
        return 1.0

    def losses(self, net, batch):
        return net(batch.inputs, batch.targets)[0]


def uneven_batch() -> Batch:
    """16 pictures with none to three objects each; the last quarter has none at all."""
    images, targets = rectangles(64, 64, 16, empty=(3, 12, 13, 14, 15))
    keys = torch.randint(2**60, (16,), generator=torch.Generator().manual_seed(1))
    targets = type(targets)(targets.boxes_xyxy, targets.labels, targets.masks, keys=keys)
    return Batch(images, targets, torch.arange(16))


@pytest.mark.parametrize("section", DETECTORS.values(), ids=DETECTORS)
def test_the_gradients_of_the_parts_add_up_to_those_of_the_batch(section):
    task, batch = Detecting(**section), uneven_batch()
    whole = step_gradients(task, [batch])
    for parts in (2, 4, 16):
        check_same(whole, step_gradients(task, cut(batch, parts)))


def test_what_is_drawn_of_a_picture_does_not_depend_on_the_others():
    random = torch.Generator().manual_seed(0)
    labels = [torch.randint(-1, 2, (size,), generator=random).float() for size in (300, 40, 12)]
    labels.append(torch.zeros(50))
    keys = torch.randint(2**60, (4,), generator=random)
    together = KeyedSampler(32, 0.25, stream=0)
    together.keys = keys
    drawn, drawn_background = together(labels)
    counts = torch.tensor([[int(one.sum()) for one in both] for both in (drawn, drawn_background)])
    theirs = BalancedPositiveNegativeSampler(32, 0.25)(labels)
    assert torch.equal(counts, torch.tensor([[int(one.sum()) for one in both] for both in theirs]))
    assert (together.positive, together.drawn) == (int(counts[0].sum()), int(counts.sum()))
    for label, key, one, other in zip(labels, keys, drawn, drawn_background, strict=True):
        assert torch.all(label[one.bool()] >= 1)
        assert torch.all(label[other.bool()] == 0)
        alone = KeyedSampler(32, 0.25, stream=0)
        alone.keys = key[None]
        assert torch.equal(torch.stack([one, other]), torch.cat([chosen[0][None] for chosen in alone([label])]))
    together.keys = keys + 1
    assert not torch.equal(together(labels)[0][0], drawn[0]), "another key, another draw"


def test_the_loss_of_an_evaluation_does_not_depend_on_its_batches():
    """That of single-shot detectors, which count objects."""
    task, batch = Detecting(name="yolo"), uneven_batch()
    task.model.eval()
    with torch.no_grad():
        losses = [mean_loss([task.losses(task.model, part) for part in cut(batch, parts)]) for parts in (1, 2, 3, 16)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("section", DETECTORS.values(), ids=DETECTORS)
def test_a_model_that_diverged_has_a_loss_that_says_so(section, weight):
    """And no error of an index far away, which a GPU does not survive; the guard of the trainer looks at the loss."""
    task, batch = Detecting(**section), uneven_batch()
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.fill_(weight)
    terms = task.losses(task.model, batch[:4])
    assert not torch.isfinite(sum(term.mean for term in terms.values()))
    with torch.no_grad():
        task.model.eval()(batch.inputs[:2])
