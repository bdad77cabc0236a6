"""Detectors as from a YAML's model section, and two plain rectangles a picture that they can learn by heart."""

import torch
from pydantic import TypeAdapter

from mlcli.data.info import DataInfo
from mlcli.tasks.detection.models.build import build
from mlcli.tasks.detection.models.config import DetectionModel
from mlcli.tasks.detection.models.detector import Detector
from mlcli.tasks.detection.targets import Targets

MODEL = TypeAdapter(DetectionModel)
COLOURS = torch.tensor([[230, 40, 40], [40, 230, 40], [40, 40, 230]], dtype=torch.uint8)


def facts(height: int, width: int, classes: int = 3, **preparation) -> DataInfo:
    names = tuple(f"class{index}" for index in range(classes))
    return DataInfo("image", (3, height, width), names, "boxes", (0.5,) * 3, (0.25,) * 3, preparation)


def detector(info: DataInfo, seed: int = 0, **section) -> Detector:
    torch.manual_seed(seed)
    return build(MODEL.validate_python(section), info)


def two_rectangles(count: int, height: int, width: int, classes: int = 3) -> tuple[torch.Tensor, Targets]:
    """One left and one right in each picture, the class in the colour, and a row that stands for nothing."""
    random = torch.Generator().manual_seed(5)
    images = torch.randint(100, 140, (count, 3, height, width), generator=random, dtype=torch.uint8)
    boxes, labels = torch.zeros(count, 3, 4), torch.zeros(count, 3, dtype=torch.int64)
    for image in range(count):
        for side in range(2):
            share = torch.rand(4, generator=random)
            w, h = int((0.2 + 0.2 * share[0]) * width), int((0.25 + 0.4 * share[1]) * height)
            left = side * width // 2 + int(share[2] * (width // 2 - w))
            top = int(share[3] * (height - h))
            label = int(torch.randint(1, classes + 1, (), generator=random))
            images[image, :, top : top + h, left : left + w] = COLOURS[label - 1][:, None, None]
            boxes[image, side] = torch.tensor([left, top, left + w, top + h])
            labels[image, side] = label
    return images, Targets(boxes, labels)


def nothing(count: int, rows: int = 3) -> Targets:
    return Targets(torch.zeros(count, rows, 4), torch.zeros(count, rows, dtype=torch.int64))
