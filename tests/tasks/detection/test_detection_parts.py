"""A step of any detector is the same however it is cut into parts, and so is its loss."""

import pytest
import torch
from torch import nn

from mlcli.engine.contract import Batch
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
