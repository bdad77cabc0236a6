"""Bright rectangles with boxes and masks, none to a few a picture; learning them by heart, counting what was found."""

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from mlcli.engine.terms import total
from mlcli.tasks.detection.targets import Detections, Targets


def rectangles(
    height: int, width: int, pictures: int = 4, *, rows: int = 3, classes: int = 3, empty: tuple[int, ...] = ()
) -> tuple[Tensor, Targets]:
    """uint8 [B, 3, H, W] and what is in them: in picture b there are 1 + b % rows objects, none in those of `empty`."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(30, 80, (pictures, 3, height, width), generator=random, dtype=torch.uint8)
    boxes, labels = torch.zeros(pictures, rows, 4), torch.zeros(pictures, rows, dtype=torch.int64)
    masks = torch.zeros(pictures, rows, height, width, dtype=torch.uint8)
    for picture in set(range(pictures)) - set(empty):
        for row in range(1 + picture % rows):
            w, h = torch.randint(16, min(height, width) // 2 + 1, (2,), generator=random).tolist()
            x = int(torch.randint(0, width - w + 1, (), generator=random))
            y = int(torch.randint(0, height - h + 1, (), generator=random))
            label = int(torch.randint(1, classes + 1, (), generator=random))
            images[picture, :, y : y + h, x : x + w] = 40
            images[picture, label - 1, y : y + h, x : x + w] = 220
            masks[picture, :, y : y + h, x : x + w] = 0  # the later one lies on top
            masks[picture, row, y : y + h, x : x + w] = 1
            boxes[picture, row] = torch.tensor([x, y, x + w, y + h])
            labels[picture, row] = label
    return images, Targets(boxes, labels, masks)


def learn_by_heart(net: nn.Module, images: Tensor, targets: Targets) -> tuple[list[float], Detections]:
    """The loss of each step on the one batch, and what is found in it afterwards.

    From 40 steps on it ends as soon as most objects are found, and at 200: how many it takes depends on how a machine
    rounds.
    """
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    torch.manual_seed(0)
    losses = list[float]()
    while True:
        net.train()
        for _ in range(20):
            terms, _ = net(images, targets)
            loss = total(terms)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 10)
            optimizer.step()
            losses.append(loss.item())
        net.eval()
        with torch.no_grad():
            terms, found = net(images)
        assert terms == {}
        if len(losses) >= 200 or (len(losses) >= 40 and found_share(found, targets) >= 0.85):
            return losses, found


def found_share(found: Detections, targets: Targets, *, score: float = 0.3, iou: float = 0.5) -> float:
    """Share of the objects that a detection of their class, scored above `score`, overlaps by `iou`."""
    hits = []
    for picture, row in targets.valid.nonzero().tolist():
        same = (found.labels[picture] == targets.labels[picture, row]) & (found.scores[picture] > score)
        overlaps = box_iou(targets.boxes_xyxy[picture, row][None], found.boxes_xyxy[picture][same])
        hits.append(bool((overlaps >= iou).any()))
    return sum(hits) / len(hits)


def check_detections(found: Detections, pictures: int, height: int, width: int, classes: int, rows: int) -> None:
    """What `Detections` promises."""
    assert found.boxes_xyxy.shape == (pictures, rows, 4)
    assert found.scores.shape == found.labels.shape == (pictures, rows)
    assert found.boxes_xyxy.dtype == found.scores.dtype == torch.float32
    assert found.labels.dtype == torch.int64
    assert (found.scores.diff(dim=1) <= 0).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    x, y = found.boxes_xyxy[..., 0::2], found.boxes_xyxy[..., 1::2]
    assert ((x >= 0) & (x <= width)).all()
    assert ((y >= 0) & (y <= height)).all()
    real = found.labels > 0
    assert torch.equal(real, found.scores > 0)
    assert (found.labels <= classes).all()
    assert (found.boxes_xyxy[~real] == 0).all()
