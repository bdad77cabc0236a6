"""What was found in a picture and in its mirrored self, made one."""

import torch

from mlcli.tasks.detection.nms import both
from mlcli.tasks.detection.targets import Detections


def found(*rows: tuple[list[float], float, int], most: int = 4) -> Detections:
    boxes, scores, labels = torch.zeros(1, most, 4), torch.zeros(1, most), torch.zeros(1, most, dtype=torch.int64)
    for i, (box, score, label) in enumerate(rows):
        boxes[0, i], scores[0, i], labels[0, i] = torch.tensor(box), score, label
    return Detections(boxes, scores, labels)


def test_mirrored_boxes_come_back_and_doubles_are_one():
    plain = found(([10.0, 5, 30, 25], 0.6, 1), ([40.0, 40, 60, 60], 0.5, 2))
    mirrored = found(([70.0, 5, 90, 25], 0.9, 1), ([0.0, 0, 20, 10], 0.7, 2))  # of a picture 100 wide
    result = both(plain, mirrored, (80, 100), 0.5, "hard")
    assert result.boxes_xyxy[0].tolist() == [[10, 5, 30, 25], [80, 0, 100, 10], [40, 40, 60, 60], [0, 0, 0, 0]]
    assert result.labels[0].tolist() == [1, 2, 2, 0]
    assert torch.allclose(result.scores[0], torch.tensor([0.9, 0.7, 0.5, 0]))


def test_nothing_found_twice_is_nothing():
    assert both(found(), found(), (80, 100), 0.5, "hard").labels.tolist() == [[0, 0, 0, 0]]
