"""What R-CNN and Fast R-CNN share: regions are proposed from outside, the network says what is in each, and where.

Matching, sampling, coding and suppression are torchvision's RoIHeads, as in Girshick 2015 (arXiv:1504.08083, section
2.3): a quarter of the regions learned from overlap an object by half or more, the others are background.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads

from mlcli.data.info import DataInfo
from mlcli.tasks.detection.models.config import FastRCnn, RCnn
from mlcli.tasks.detection.models.detector import Detector
from mlcli.tasks.detection.models.lists import boxes_to_lists, to_detections, to_lists
from mlcli.tasks.detection.models.sliding import sliding_windows
from mlcli.tasks.detection.targets import Detections, Targets

if TYPE_CHECKING:
    from mlcli.tasks.detection.models.proposers import Proposer

FOREGROUND_IOU = 0.5
"""From this overlap on a region is an object's, below it is background."""

FOREGROUND_SHARE = 0.25
"""Most of the regions learned from that are objects'."""


class RegionDetector(Detector):
    """Regions in, detections out.

    Regions are those in `targets.proposals_xyxy`; where there are none, sliding windows, or what the configured method
    finds in the pictures at hand. In training the objects' own boxes are among them.

    Args:
        features: from pixels to what regions are cut from.
        look: (features, B times boxes [p, 4], sizes) -> [R, hidden], what is seen in each region.
        regions: how many of a picture are learned from.
    """

    windows: Tensor

    def __init__(
        self,
        config: RCnn | FastRCnn,
        info: DataInfo,
        *,
        features: nn.Module,
        look: nn.Module,
        hidden: int,
        regions: int,
    ) -> None:
        super().__init__(info)
        self.max_detections = config.max_detections
        self._config, self._info = config.proposals, info
        self._propose: Proposer | None = None
        sliding = config.proposals.method == "sliding"
        windows = sliding_windows(*self.image_size, config.proposals.most) if sliding else torch.empty(0, 4)
        self.register_buffer("windows", windows, persistent=False)
        self.features = features
        self.roi_heads = RoIHeads(
            box_roi_pool=look,
            box_head=nn.Identity(),
            box_predictor=_FullPrecisionPredictor(hidden, info.num_classes + 1),
            fg_iou_thresh=FOREGROUND_IOU,
            bg_iou_thresh=FOREGROUND_IOU,
            batch_size_per_image=regions,
            positive_fraction=FOREGROUND_SHARE,
            bbox_reg_weights=None,
            score_thresh=config.score_threshold,
            nms_thresh=config.nms_iou,
            detections_per_img=config.max_detections,
        )

    def forward(self, images: Tensor, targets: Targets | None = None) -> tuple[dict[str, Tensor], Detections | None]:
        proposals = self.proposals(images, targets)
        features = self.features(self.normalize(images))
        sizes = [self.image_size] * len(images)
        if not self.training:
            found, _ = self.roi_heads(features, proposals, sizes)
            return {}, to_detections(found, self.max_detections)
        assert targets is not None, "nothing to learn from"
        _, losses = self.roi_heads(features, proposals, sizes, to_lists(targets))
        return {"class": losses["loss_classifier"], "box": losses["loss_box_reg"]}, None

    def proposals(self, images: Tensor, targets: Targets | None) -> list[Tensor]:
        """B times float32 [p, 4], p >= 1: with no region at all in a batch the mean loss would be NaN."""
        if len(self.windows):
            return [self.windows] * len(images)
        if targets is not None and targets.proposals_xyxy is not None:
            proposals = boxes_to_lists(targets.proposals_xyxy)
        else:
            proposals = self._proposed(images)
        height, width = self.image_size
        return [boxes if len(boxes) else boxes.new_tensor([[0, 0, width, height]]) for boxes in proposals]

    def _proposed(self, images: Tensor) -> list[Tensor]:
        """For pictures that nobody looked at before, as when predicting."""
        if self._propose is None:
            from mlcli.tasks.detection.models.proposers import proposer

            self._propose = proposer(self._config, self._info)
        return [boxes.to(images.device) for boxes in self._propose(images.round().to(torch.uint8))]


class _FullPrecisionPredictor(FastRCNNPredictor):
    """torchvision decodes boxes in the type of these answers, and bfloat16 knows only every second pixel beyond 256."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())
