"""Tiny pictures of coloured rectangles with their boxes and masks, which detectors can learn in seconds."""

import torch

from mlcli.data.info import DataInfo
from mlcli.tasks.detection.targets import Targets


def rectangle_info(classes: int = 3, height: int = 64, width: int = 64) -> DataInfo:
    names = tuple(f"colour {k}" for k in range(1, classes + 1))
    return DataInfo("image", (3, height, width), names, "boxes", (0.3,) * 3, (0.25,) * 3)


def rectangles(
    info: DataInfo, pictures: int = 4, most: int = 3, *, seed: int = 0, empty: tuple[int, ...] = ()
) -> tuple[torch.Tensor, Targets]:
    """uint8 [B, 3, H, W] and targets with `most` rows; class k is a rectangle bright in colour (k - 1) % 3."""
    _, height, width = info.input_shape
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(30, 80, (pictures, 3, height, width), generator=g, dtype=torch.uint8)
    boxes, labels = torch.zeros(pictures, most, 4), torch.zeros(pictures, most, dtype=torch.int64)
    masks = torch.zeros(pictures, most, height, width, dtype=torch.uint8)
    for picture in set(range(pictures)) - set(empty):
        for row in range(1 + (picture + seed) % most):
            w, h = torch.randint(16, min(height, width) // 2 + 1, (2,), generator=g).tolist()
            x = int(torch.randint(0, width - w + 1, (), generator=g))
            y = int(torch.randint(0, height - h + 1, (), generator=g))
            label = int(torch.randint(1, info.num_classes + 1, (), generator=g))
            images[picture, :, y : y + h, x : x + w] = 40
            images[picture, (label - 1) % 3, y : y + h, x : x + w] = 220
            masks[picture, :, y : y + h, x : x + w] = 0  # the newer one lies on top
            masks[picture, row, y : y + h, x : x + w] = 1
            boxes[picture, row] = torch.tensor([x, y, x + w, y + h])
            labels[picture, row] = label
    return images, Targets(boxes, labels, masks)


def learn(detector, images, targets, steps: int, lr: float = 0.01) -> float:
    """Adam on one batch, as the trainer would with clipped gradients. The last loss."""
    optimizer = torch.optim.AdamW(detector.parameters(), lr)
    torch.manual_seed(0)
    detector.train()
    for _ in range(steps):
        terms, _ = detector(images, targets)
        loss = sum(terms.values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10)
        optimizer.step()
    return loss.item()


def found_share(detections, targets, *, score: float = 0.3, iou: float = 0.5) -> float:
    """Share of the objects that some detection of the right class, scored above `score`, overlaps by `iou`."""
    from torchvision.ops import box_iou

    hit = total = 0
    for b in range(len(targets.labels)):
        sure = detections.scores[b] > score
        for box, label in zip(targets.boxes_xyxy[b], targets.labels[b], strict=True):
            if label == 0:
                continue
            total += 1
            same = sure & (detections.labels[b] == label)
            hit += bool(same.any() and (box_iou(box[None], detections.boxes_xyxy[b][same]) >= iou).any())
    return hit / total
