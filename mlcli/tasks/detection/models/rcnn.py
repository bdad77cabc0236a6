"""R-CNN and Fast R-CNN: regions are proposed from outside, the network says what is in each, and where exactly.

R-CNN (Girshick et al. 2014, arXiv:1311.2524): every region is cut out, warped, and seen by a CNN alone. As there, some
of the surroundings is cut out too, what lies outside the picture has the mean colour (appendix A), and boxes are
refined by regression (appendix C). Unlike there, a softmax decides between the classes, not a support vector machine
each (appendix B finds 3.3 points of mAP between the two); the regression is learned along with it, as in Fast R-CNN;
the network is small and starts from scratch.

Fast R-CNN (Girshick 2015, arXiv:1504.08083): the picture goes through the network once, each region is pooled from its
map. As there, one map, the maxima of 7 x 7 cells of each region, two hidden layers, softmax over the classes and smooth
L1 on the offsets, learned together. The network is the compact one, a hundredth of VGG-16.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import RoIAlign, RoIPool, roi_align

from mlcli.engine.terms import Term, Terms
from mlcli.tasks.detection.boxes import iou_matrix
from mlcli.tasks.detection.models.backbone import CompactBackbone, Conv, PyramidPooling, Residual
from mlcli.tasks.detection.models.batched import Regions
from mlcli.tasks.detection.models.detector import Common, Detector
from mlcli.tasks.detection.models.matching import draw_by_keys, max_iou
from mlcli.tasks.detection.models.proposers import sliding_windows
from mlcli.tasks.detection.targets import Detections, Targets, boxes_to_lists, to_detections, to_lists

FOREGROUND_IOU = 0.5
"""Least overlap at which a region is an object's; below it is background (Girshick 2015, section 2.3)."""

FOREGROUND_SHARE = 0.25
"""Most of the regions learned from that are objects' (as there)."""

CROP_HIDDEN = 128  # units of R-CNN before the two answers
CROP_REGIONS = 32  # of a picture that R-CNN learns from; the paper draws 128 from all pictures of a batch (section 2.3)
CROP_CELLS = 3  # along each side of R-CNN's last map: enough to locate the object's edges in the crop
SAMPLES = 2  # pixels read along each side for one of the crop: a region of twice its side is averaged, not thinned out

CROPS_AT_ONCE = 1024
"""Crops in memory at a time when all regions are looked at: 28 MB at 48 pixels. A batch may have 20,000 regions."""

MAP_STRIDE = 8
"""Of Fast R-CNN's map, in pixels. The paper has 16, for pictures of 600 pixels and more; here, objects of 40 pixels
would have two cells, and the embedded scenes were learned a third as well (mAP@.5 after 1,600 pictures: 0.03, not
0.08)."""

MAP_CELLS = 7  # pooled from a region along each side
MAP_HIDDEN = 256  # units of Fast R-CNN; 4096 in the paper
MAP_REGIONS = 64  # of a picture that Fast R-CNN learns from (section 2.3)

Propose = Callable[[Tensor], list[Tensor]]
"""uint8 [B, 3, H, W] -> B times regions float32 [p, 4] on the CPU, corners in pixels."""


class CommonRegions(Common, total=False):
    """Keywords of both; see `RegionDetector`."""

    most: int
    propose: Propose | None


class RegionDetector(Detector):
    """Base of the two. Terms: class, box.

    Regions are those in `targets.proposals_xyxy`; where there are none, what `propose` finds in the pictures at hand;
    without it, sliding windows always. In training the objects' own boxes are among them. Matching, sampling, coding
    and suppression are torchvision's RoIHeads, as in Girshick 2015, section 2.3.

    Args:
        features: from pixels to what regions are cut from.
        look: (features, B times boxes [p, 4], sizes) -> [R, hidden], what is seen in each region.
        regions: how many of a picture are learned from.
        most: sliding windows kept of one picture.
        propose: what finds regions instead of sliding windows.
    """

    windows: Tensor

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int],
        *,
        features: nn.Module,
        look: nn.Module,
        hidden: int,
        regions: int,
        most: int = 300,
        propose: Propose | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(num_classes, image_size, **common)
        self._propose = propose
        windows = torch.empty(0, 4) if propose else sliding_windows(*image_size, most)
        self.register_buffer("windows", windows, persistent=False)
        self.features = features
        self.roi_heads = Regions(
            box_roi_pool=look,
            box_head=nn.Identity(),
            box_predictor=_FullPrecisionPredictor(hidden, num_classes + 1),
            fg_iou_thresh=FOREGROUND_IOU,
            bg_iou_thresh=FOREGROUND_IOU,
            batch_size_per_image=regions,
            positive_fraction=FOREGROUND_SHARE,
            bbox_reg_weights=None,
            score_thresh=self.score_threshold,
            nms_thresh=self.nms_iou,
            detections_per_img=self.max_detections,
        )
        self._sampler = draw_by_keys(self.roi_heads, 0)

    def forward(self, images: Tensor, targets: Targets | None = None) -> tuple[Terms, Detections | None]:
        proposals = self.proposals(images, targets)
        features = self.features(self.normalize(images))
        sizes = [self.image_size] * len(images)
        if not self.training:
            found, _ = self.roi_heads(features, proposals, sizes)
            return {}, to_detections(found, self.max_detections)
        assert targets is not None, "training needs targets"
        self._sampler.keys = targets.keys
        _, losses = self.roi_heads(features, proposals, sizes, to_lists(targets))
        learned_from = self._sampler.drawn
        return {
            "class": Term(losses["loss_classifier"], learned_from),
            "box": Term(losses["loss_box_reg"], learned_from),
        }, None

    def places(self, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        regions = self.proposals(images, targets)[0]
        return regions, max_iou(iou_matrix(targets.boxes_xyxy, regions), targets.valid, high=FOREGROUND_IOU)[0]

    def proposals(self, images: Tensor, targets: Targets | None) -> list[Tensor]:
        """B times float32 [p, 4], p >= 1: with no region at all in a batch the mean loss would be NaN."""
        if self._propose is None:
            return [self.windows] * len(images)
        if targets is not None and targets.proposals_xyxy is not None:
            proposals = boxes_to_lists(targets.proposals_xyxy)
        else:  # pictures that were not looked at before, as when predicting
            proposals = [boxes.to(images.device) for boxes in self._propose(images.round().to(torch.uint8))]
        height, width = self.image_size
        return [boxes if len(boxes) else boxes.new_tensor([[0, 0, width, height]]) for boxes in proposals]


class RcnnDetector(RegionDetector):
    """R-CNN. See `Detector` and `RegionDetector` for what it takes and returns.

    Args:
        crop: side in pixels that each region is warped to.
        context: by how much of its sides a region is widened before it is cut out, half at each end.
        width: channels of the CNN's first layer.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int],
        *,
        crop: int = 48,
        context: float = 0.15,
        width: int = 16,
        **common: Unpack[CommonRegions],
    ) -> None:
        super().__init__(
            num_classes,
            image_size,
            features=nn.Identity(),
            look=LookAtCrops(crop, context, width),
            hidden=CROP_HIDDEN,
            regions=CROP_REGIONS,
            **common,
        )


class FastRcnnDetector(RegionDetector):
    """Fast R-CNN. See `Detector` and `RegionDetector` for what it takes and returns.

    Args:
        roi: how regions are pooled; see `LookAtMap`.
        width: channels of the backbone at stride 2.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int],
        *,
        roi: Literal["pool", "align"] = "pool",
        width: int = 16,
        **common: Unpack[CommonRegions],
    ) -> None:
        # The compact backbone as far as stride 8, with two blocks more and the view around that its top has.
        backbone = CompactBackbone(width)
        channels = backbone.channels[1]
        blocks = Residual(channels), Residual(channels), PyramidPooling(channels)
        features = nn.Sequential(backbone.stem, backbone.stages[0], backbone.stages[1], *blocks)
        super().__init__(
            num_classes,
            image_size,
            features=features,
            look=LookAtMap(roi, channels),
            hidden=MAP_HIDDEN,
            regions=MAP_REGIONS,
            **common,
        )


def crop_and_warp(images: Tensor, boxes: Sequence[Tensor] | Tensor, side: int, context: float) -> Tensor:
    """Stretch every region with its surroundings to a square: float32 [R, C, side, side], in the order of `boxes`.

    images: float [B, C, H, W]; what lies outside of one is 0, the mean colour after normalisation.
    boxes: B times float32 [p, 4], corners in pixels; R of all together. Or all in one, float32 [R, 5], the image first.
    context: by how much of its sides a box is widened, half of it at each end.
    """
    widened: Tensor | list[Tensor]
    if isinstance(boxes, Tensor):
        widened = torch.cat([boxes[:, :1], _widened(boxes[:, 1:], context)], dim=1)
    else:
        widened = [_widened(corners, context) for corners in boxes]
    return roi_align(images, widened, side, sampling_ratio=SAMPLES, aligned=True)


def _widened(corners: Tensor, context: float) -> Tensor:
    margin = (corners[:, 2:] - corners[:, :2]) * (context / 2)
    return torch.cat([corners[:, :2] - margin, corners[:, 2:] + margin], dim=1)


class LookAtCrops(nn.Module):
    """Normalised pictures [B, 3, H, W] and B times boxes [p, 4] -> [R, CROP_HIDDEN], each region seen alone."""

    def __init__(self, side: int, context: float, width: int) -> None:
        super().__init__()
        self.side, self.context = side, context
        self.net = nn.Sequential(
            Conv(3, width, stride=2),
            Conv(width, 2 * width, stride=2),
            Residual(2 * width),
            Conv(2 * width, 4 * width, stride=2),
            Residual(4 * width),
            Conv(4 * width, 8 * width, stride=2),
            nn.AdaptiveAvgPool2d(CROP_CELLS),
            nn.Flatten(),
            nn.Linear(8 * width * CROP_CELLS**2, CROP_HIDDEN),
            nn.SiLU(inplace=True),
        )

    def forward(self, images: Tensor, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        if self.training:  # all at once, for the statistics of the batch norms
            return self.net(crop_and_warp(images, boxes, self.side, self.context))
        seen = []
        for image, regions in zip(images.split(1), boxes, strict=True):
            for some in regions.split(CROPS_AT_ONCE):
                seen.append(self.net(crop_and_warp(image, [some], self.side, self.context)))
        return torch.cat(seen)


class LookAtMap(nn.Module):
    """Map [B, C, H / 8, W / 8] and B times boxes [p, 4] in pixels -> [R, MAP_HIDDEN], R regions of all pictures.

    pool: the largest value in each of 7 x 7 parts, whose edges are rounded to cells of the map (section 2.1).
    align: the mean of four values in each, read between the cells (He et al. 2017, arXiv:1703.06870, section 3).
    """

    def __init__(self, roi: Literal["pool", "align"], channels: int) -> None:
        super().__init__()
        scale = 1 / MAP_STRIDE
        self.pool = RoIPool(MAP_CELLS, scale) if roi == "pool" else RoIAlign(MAP_CELLS, scale, 2, aligned=True)
        self.head = TwoMLPHead(channels * MAP_CELLS**2, MAP_HIDDEN)

    def forward(self, features: Tensor, boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        return self.head(self.pool(features.float(), boxes))  # RoI pooling knows no half precision on the CPU


class _FullPrecisionPredictor(FastRCNNPredictor):
    """torchvision decodes boxes in the type of these answers, and bfloat16 knows only every second pixel beyond 256."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())
