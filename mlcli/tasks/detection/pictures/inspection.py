"""The anchors or proposals of a detector, the objects they are trained to predict, and what suppression would keep."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from mlcli.tasks.detection.boxes import iou_matrix
from mlcli.tasks.detection.models.matching import bipartite, max_iou
from mlcli.tasks.detection.models.rcnn import RegionDetector
from mlcli.tasks.detection.models.ssd import MATCH_IOU, SsdDetector
from mlcli.tasks.detection.models.torchvision_detectors import TorchvisionBase, TwoStage
from mlcli.tasks.detection.models.yolo import FreeHead, YoloDetector
from mlcli.tasks.detection.models.yolo_anchors import AnchorHead
from mlcli.tasks.detection.nms import nms
from mlcli.tasks.detection.targets import Targets

if TYPE_CHECKING:
    from PIL.Image import Image

REGION_IOU = 0.5
"""Least IoU from which a proposal learns an object (Girshick 2015, section 2.3; Ren et al. 2015, section 3.2)."""
NEAR_IOU = 0.5
"""Overlap from which a place is taken for a candidate of an object in the picture of suppression."""


@torch.no_grad()
def places_and_matches(model: nn.Module, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """The places of the first picture that a detector predicts from, and the object that each is to learn.

    Returns boxes float32 [A, 4] in pixels of the input, without area where places are points, and int64 [A]: the row of
    an object, or negative for none. Of FCOS, which matches points by region and size, only the points.
    """
    images, targets = images[:1], targets[:1]
    match model:
        case YoloDetector(head=AnchorHead() as head):
            return head.boxes_xyxy, head.assign(targets)[0]
        case YoloDetector(head=FreeHead() as head):
            boxes_xyxy, logits = head.read(head(model.neck(model.normalize(images))))
            return head.centres_xy.repeat(1, 2), head.assign(boxes_xyxy, logits.sigmoid(), targets)[0][0]
        case SsdDetector():
            ious = iou_matrix(targets.boxes_xyxy, model.boxes_xyxy)
            return model.boxes_xyxy, bipartite(ious, targets.valid, threshold=MATCH_IOU)[0]
        case RegionDetector():
            return _by_overlap(model.proposals(images, targets)[0], targets, high=REGION_IOU)
        case TorchvisionBase():
            pixels = model.normalize(images)
            maps = list(model.net.backbone(pixels).values())
            generator = model.net.rpn.anchor_generator if isinstance(model, TwoStage) else model.net.anchor_generator
            anchors = generator(ImageList(pixels, [model.image_size]), maps)[0]
            if not hasattr(model.net, "proposal_matcher") and not isinstance(model, TwoStage):
                middle = (anchors[:, :2] + anchors[:, 2:]) / 2
                return middle.repeat(1, 2), torch.full((len(anchors),), -1)
            matcher = model.net.rpn.proposal_matcher if isinstance(model, TwoStage) else model.net.proposal_matcher
            return _by_overlap(anchors, targets, matcher.high_threshold, matcher.low_threshold, lowest=True)
    return targets.boxes_xyxy.new_zeros(0, 4), torch.zeros(0, dtype=torch.int64)  # a detector that this does not know


def inspection_pictures(
    model: nn.Module, images: Tensor, targets: Targets, class_names: tuple[str, ...], nms_iou: float
) -> "dict[str, Image]":
    """The places of the first picture with objects, their matches, and suppression among the places near an object.

    Candidates are places as they are, scored by how much of an object they cover: what a perfect estimate of
    overlap would give suppression to do. Nothing for places that are points, no pictures of a detector unknown here.
    """
    from mlcli.tasks.detection.pictures.sheets import anchors_and_matches, before_and_after_nms

    first = int(targets.valid.any(dim=1).int().argmax())
    images, targets = images[first : first + 1], targets[first : first + 1]
    places_xyxy, matched = places_and_matches(model.eval(), images, targets)
    if not len(places_xyxy):
        return {}
    boxes_xyxy, labels = targets.boxes_xyxy[0], targets.labels[0]
    pictures = {
        "anchors": anchors_and_matches(images[0], places_xyxy, boxes_xyxy, labels, matched, class_names),
    }
    best, nearest = (iou_matrix(boxes_xyxy, places_xyxy) * (labels > 0)[:, None]).max(dim=0)
    near = (best >= NEAR_IOU).nonzero().flatten()
    if len(near):
        candidates, scores, kinds = places_xyxy[near], best[near], labels[nearest[near]]
        kept = nms(candidates, scores, nms_iou, labels=kinds)
        pictures["suppression"] = before_and_after_nms(images[0], candidates, scores, kinds, kept, class_names)
    return pictures


def _by_overlap(
    boxes_xyxy: Tensor, targets: Targets, high: float, low: float | None = None, *, lowest: bool = False
) -> tuple[Tensor, Tensor]:
    ious = iou_matrix(targets.boxes_xyxy, boxes_xyxy[None])
    return boxes_xyxy, max_iou(ious, targets.valid, high=high, low=low, allow_low_quality=lowest)[0]
