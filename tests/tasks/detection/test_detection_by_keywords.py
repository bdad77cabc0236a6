"""Every detector by plain keywords, as in a notebook, without config or data; a config builds the same."""

import pytest
import torch

from mlcli.engine.terms import total
from mlcli.tasks.detection.boxes import clip
from mlcli.tasks.detection.models.rcnn import FastRcnnDetector, RcnnDetector
from mlcli.tasks.detection.models.ssd import SsdDetector
from mlcli.tasks.detection.models.torchvision_detectors import (
    FasterRcnnDetector,
    FcosDetector,
    MaskRcnnDetector,
    RetinaNetDetector,
)
from mlcli.tasks.detection.models.yolo import YoloDetector
from mlcli.tasks.detection.nms import suppress

from .overfit import detector, facts
from .rectangles import check_detections, rectangles

DETECTORS = {
    "yolo": (YoloDetector, {"width": 4, "strides": (8, 16), "box_loss": "giou"}),
    "yolo with anchors": (YoloDetector, {"head": "anchors", "width": 4, "anchors_wh": [[8, 8]] * 9}),
    "ssd": (SsdDetector, {"width": 4, "negatives": 2.0}),
    "ssd on vgg16": (SsdDetector, {"backbone": "vgg16", "batch_norm": False}),
    "rcnn": (RcnnDetector, {"width": 4, "crop": 16, "context": 0.1, "most": 100}),
    "fast_rcnn": (FastRcnnDetector, {"width": 4, "roi": "align"}),
    "faster_rcnn": (FasterRcnnDetector, {"width": 4}),
    "mask_rcnn": (MaskRcnnDetector, {"width": 4}),
    "retinanet": (RetinaNetDetector, {"width": 4}),
    "fcos": (FcosDetector, {"width": 4}),
}
LIMITS = {"mean": (0.4, 0.5, 0.6), "std": (0.2,) * 3, "score_threshold": 0.0, "nms_iou": 0.6, "max_detections": 12}

every_detector = pytest.mark.parametrize("name", DETECTORS)


@every_detector
def test_training_and_use(name):
    kind, keywords = DETECTORS[name]
    images, targets = rectangles(64, 96, 2)
    net = kind(num_classes=3, image_size=(64, 96), **keywords, **LIMITS)
    terms, nothing_found = net(images, targets)
    assert nothing_found is None
    assert {"box", "class"} <= set(terms)
    total(terms).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())
    assert net.mean.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    net.eval()
    with torch.no_grad():
        _, found = net(images)
    check_detections(found, 2, 64, 96, 3, 12)


@every_detector
def test_a_config_builds_the_same(name):
    kind, keywords = DETECTORS[name]
    section = {"name": name.split()[0]} | {key: value for key, value in keywords.items() if key != "anchors_wh"}
    if "most" in section:
        section["proposals"] = {"most": section.pop("most")}
    anchors = {"anchors_wh": keywords["anchors_wh"]} if "anchors_wh" in keywords else {}
    built = detector(facts(64, 96, **anchors), seed=2, **section)
    torch.manual_seed(2)
    own = kind(3, (64, 96), mean=(0.5,) * 3, std=(0.25,) * 3, **keywords)
    assert type(built) is kind
    assert list(built.state_dict()) == list(own.state_dict())
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in built.state_dict().items())


@pytest.mark.parametrize("kind", [YoloDetector, SsdDetector])
def test_suppression_is_the_one_asked_for(kind):
    images, _ = rectangles(64, 96, 1)
    scores = {}
    for nms in ("hard", "soft", "diou"):
        torch.manual_seed(0)
        net = kind(3, (64, 96), width=4, nms=nms, nms_iou=0.3, score_threshold=0.0, max_detections=50).eval()
        with torch.no_grad():
            boxes_xyxy, candidates = net.candidates(net.predict(net.normalize(images)))
            found = net(images)[1]
        expected = suppress(clip(boxes_xyxy, 64, 96), candidates, 0.3, 0.0, 50, nms)
        assert torch.equal(found.boxes_xyxy, expected.boxes_xyxy)
        assert torch.equal(found.scores, expected.scores)
        scores[nms] = found.scores
    assert not torch.equal(scores["hard"], scores["soft"])


def test_a_config_says_which_suppression():
    assert detector(facts(64, 64), name="yolo", width=4).nms == "hard"
    assert detector(facts(64, 64), name="ssd", width=4, nms="soft").nms == "soft"
