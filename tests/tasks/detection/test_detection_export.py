"""Exported detectors: they suppress as the detector itself does."""

import pytest
import torch
from pydantic import TypeAdapter

from mlcli.tasks.detection import exporting
from mlcli.tasks.detection.models.build import build
from mlcli.tasks.detection.models.config import DetectionModel
from tests.tasks.detection.overfit import facts


@pytest.mark.parametrize("method", ["hard", "soft", "diou"])
def test_an_exported_detector_suppresses_by_its_own_method(method, monkeypatch):
    section = {"name": "yolo", "width": 4, "nms": method, "nms_iou": 0.4, "max_detections": 7}
    detector = build(TypeAdapter(DetectionModel).validate_python(section), facts(64, 64)).eval()
    asked = []
    monkeypatch.setattr(exporting, "suppress", lambda found, *rest: asked.append(rest))
    exporting.exportable(detector)(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert asked == [(0.4, 0.01, 7, method)]
