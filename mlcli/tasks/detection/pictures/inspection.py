"""The anchors or proposals of a detector, the objects they are trained to predict, and what suppression would keep."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mlcli.tasks.detection.boxes import iou_matrix
from mlcli.tasks.detection.models.detector import Detector
from mlcli.tasks.detection.nms import nms
from mlcli.tasks.detection.targets import Targets

if TYPE_CHECKING:
    from PIL.Image import Image

NEAR_IOU = 0.5
"""Overlap from which a place is taken for a candidate of an object in the picture of suppression."""


@torch.no_grad()
def inspection_pictures(
    model: Detector, images: Tensor, targets: Targets, class_names: tuple[str, ...], nms_iou: float
) -> "dict[str, Image]":
    """The places of the first picture with objects, their matches, and suppression among the places near an object.

    Candidates are places as they are, scored by how much of an object they cover: what a perfect estimate of
    overlap would give suppression to do. Nothing for places that are points, no pictures of a detector that does not
    say its places.
    """
    from mlcli.tasks.detection.pictures.sheets import anchors_and_matches, before_and_after_nms

    first = int(targets.valid.any(dim=1).int().argmax())
    images, targets = images[first : first + 1], targets[first : first + 1]
    places_xyxy, matched = model.eval().places(images, targets)
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
