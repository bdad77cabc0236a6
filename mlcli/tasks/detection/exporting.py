"""Detectors in a form that can be exported: suppression included, and no shape that depends on what is in a picture.

Greedy suppression is a scan of as many steps as objects are kept at most: each takes the most certain box that is left
and drops, or makes less certain, those of its class that overlap it. Both torch.export and ONNX know a scan.
"""

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from mlcli.errors import ConfigError
from mlcli.tasks.detection.boxes import clip, overlap
from mlcli.tasks.detection.models.detector import Detector, SingleShot
from mlcli.tasks.detection.models.rcnn import LookAtCrops, RegionDetector, crop_and_warp
from mlcli.tasks.detection.models.torchvision_detectors import OneStage
from mlcli.tasks.detection.nms import MAX_CANDIDATES, Candidates, Method, likeliest

GONE = -1.0
"""Score of what is not, or no longer, a candidate."""
SIGMA = 0.5
"""Of soft suppression, as in `nms.soft_nms`."""
LEAST_SIDE = 1e-2
"""Pixels; torchvision's heads drop smaller boxes."""


class ExportableDetector(nn.Module):
    """uint8 [B, 3, H, W] -> boxes float32 [B, D, 4] in pixels, scores float32 [B, D], labels int64 [B, D]; D is
    `max_detections`, and rows that stand for nothing are zeros at the end."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        detector = self.detector
        found = self.candidates(detector.normalize(images))
        return suppress(found, detector.nms_iou, detector.score_threshold, detector.max_detections, detector.nms)

    def candidates(self, pixels: Tensor) -> Candidates:
        """Return what is in normalised images [B, 3, H, W]."""
        raise NotImplementedError


class ExportableSingleShot(ExportableDetector):
    """YOLO and SSD."""

    detector: SingleShot

    def candidates(self, pixels: Tensor) -> Candidates:
        boxes_xyxy, scores = self.detector.candidates(self.detector.predict(pixels))
        return likeliest(clip(boxes_xyxy, *self.detector.image_size), scores, MAX_CANDIDATES)


class ExportableOneStage(ExportableDetector):
    """RetinaNet and FCOS: of each map, so many candidates as torchvision takes."""

    detector: OneStage
    anchors: Tensor

    def __init__(self, detector: OneStage) -> None:
        super().__init__(detector)
        pixels = torch.zeros(1, 3, *detector.image_size)
        with torch.no_grad():
            maps = list(detector.net.backbone(pixels).values())
            (anchors,) = detector.net.anchor_generator(ImageList(pixels, [detector.image_size]), maps)
            count = detector.net.head(maps)["cls_logits"].shape[1]
        places = [one.shape[2] * one.shape[3] for one in maps]
        self.rows = [each * (count // sum(places)) for each in places]
        self.register_buffer("anchors", anchors)

    def candidates(self, pixels: Tensor) -> Candidates:
        net = self.detector.net
        outputs = net.head(list(net.backbone(pixels).values()))
        return self.detector.candidates(outputs, self.anchors, self.rows)


class ExportableRegions(ExportableDetector):
    """R-CNN and Fast R-CNN on sliding windows, which are the same in every picture."""

    detector: RegionDetector

    def candidates(self, pixels: Tensor) -> Candidates:
        detector, heads = self.detector, self.detector.roi_heads
        look, windows = heads.box_roi_pool, detector.windows
        count = len(windows)
        image = torch.arange(pixels.shape[0], device=pixels.device, dtype=windows.dtype).repeat_interleave(count)
        regions = torch.cat([image[:, None], windows.repeat(pixels.shape[0], 1)], dim=1)
        features = detector.features(pixels)
        if isinstance(look, LookAtCrops):
            seen = look.net(crop_and_warp(features, regions, look.side, look.context))
        else:
            seen = look.head(look.pool(features.float(), regions))
        logits, deltas = heads.box_predictor(seen)
        boxes = heads.box_coder.decode_single(deltas, regions[:, 1:]).reshape(pixels.shape[0], count, -1, 4)
        boxes = clip(boxes, *detector.image_size)[:, :, 1:].flatten(1, 2)
        scores = logits.softmax(dim=-1)[:, 1:].reshape(pixels.shape[0], -1)
        solid = ((boxes[..., 2:] - boxes[..., :2]) >= LEAST_SIDE).all(dim=-1)
        labels = torch.arange(1, detector.num_classes + 1, device=pixels.device)
        return Candidates(boxes, torch.where(solid, scores, GONE), labels.repeat(count).expand_as(scores))


def exportable(detector: Detector) -> ExportableDetector:
    """Return the form of a detector that can be exported. Raises ConfigError if it has none."""
    match detector:
        case SingleShot():
            return ExportableSingleShot(detector)
        case OneStage():
            return ExportableOneStage(detector)
        case RegionDetector() if len(detector.windows):
            return ExportableRegions(detector)
        case RegionDetector():
            reason = "its regions are proposed outside of the network: only method sliding is part of the model"
        case _:
            reason = "how many regions its second stage looks at depends on the picture, which no exported graph can do"
    layer = type(detector).__name__
    raise ConfigError(
        f"this model cannot be exported: {reason}",
        where=f"model: {layer}",
        fix="train one of yolo, ssd, retinanet, fcos, or rcnn and fast_rcnn on sliding windows",
    )


def suppress(
    found: Candidates, iou: float, score_threshold: float, most: int, method: Method = "hard"
) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce candidates to at most `most` a picture, by suppression in each class; see `nms.suppress`.

    Returns boxes, scores and labels [B, most, ...], most certain first; zeros where there are no more.
    """
    from torch._higher_order_ops.scan import scan

    boxes, scores, labels = found

    def step(left: Tensor, _: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        best = left.argmax(dim=1, keepdim=True)  # [B, 1]
        score = left.gather(1, best)
        box = boxes.gather(1, best[..., None].expand(-1, -1, 4))
        same = labels == labels.gather(1, best)
        overlaps = overlap(boxes, box, "diou" if method == "diou" else "iou")  # [B, C]
        if method == "soft":
            left = torch.where(same, left * torch.exp(-overlaps.square() / SIGMA), left)
        else:
            left = torch.where(same & (overlaps > iou), GONE, left)
        return left.scatter(1, best, GONE), (best[:, 0].clone(), score[:, 0].clone())

    above = torch.where(scores > score_threshold, scores, GONE)
    _, (place, score) = scan(step, above, torch.zeros(most, 1, device=scores.device))
    place, score = place.T, score.T  # [B, most]
    real = score >= score_threshold if method == "soft" else score > score_threshold
    real = real & (score > 0)
    kept = boxes.gather(1, place[..., None].expand(-1, -1, 4))
    return kept * real[..., None], score * real, labels.gather(1, place) * real
