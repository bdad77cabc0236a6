"""SSD, the single shot multibox detector: maps say of boxes laid out beforehand what is in them and how they are off.

Liu et al. 2016 (arXiv:1512.02325). On the compact backbone, or on VGG-16 as in the paper (ssd_vgg.py). Shapes are those
of the image alone, so that it compiles and never waits for the host.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlcli.data.info import DataInfo
from mlcli.models.init import initialise
from mlcli.tasks.detection.boxes import clip, iou_matrix
from mlcli.tasks.detection.models.assigned import assigned
from mlcli.tasks.detection.models.backbone import by_box
from mlcli.tasks.detection.models.coding import decode, encode
from mlcli.tasks.detection.models.config import Ssd
from mlcli.tasks.detection.models.detector import Detector
from mlcli.tasks.detection.models.losses import hard_negative_mining
from mlcli.tasks.detection.models.matching import bipartite
from mlcli.tasks.detection.models.ssd_layout import Layout, compact_layout
from mlcli.tasks.detection.models.ssd_vgg import load_vgg, vgg_layout
from mlcli.tasks.detection.nms import suppress
from mlcli.tasks.detection.targets import Detections, Targets

MATCH_IOU = 0.5
"""Default boxes that overlap an object by this or more learn it beside its best one (section 2.2)."""


class SsdDetector(Detector):
    """Terms: box, class. See `Detector` for what it takes and returns.

    `notes` (tuple of str) says which weights did not fit.
    """

    boxes_xyxy: Tensor

    def __init__(self, config: Ssd, info: DataInfo, layout: Layout) -> None:
        super().__init__(info)
        self.config = config
        self.notes: tuple[str, ...] = ()
        self.backbone = layout.backbone
        self.locate = _predictors(layout, 4)
        self.classify = _predictors(layout, 1 + info.num_classes)
        self.register_buffer("boxes_xyxy", layout.boxes_xyxy, persistent=False)  # [A, 4]

    def forward(self, images: Tensor, targets: Targets | None = None) -> tuple[dict[str, Tensor], Detections | None]:
        assert targets is not None or not self.training, "training needs targets"
        deltas, logits = self.read(self.backbone(self.normalize(images)))
        with torch.autocast(images.device.type, enabled=False):  # half precision places a box no better than 1 in 2048
            terms = {} if targets is None else self.losses(deltas, logits, targets)
            if self.training:
                return terms, None
            boxes_xyxy = clip(decode(deltas, self.boxes_xyxy), *self.image_size)
            scores = logits.softmax(dim=-1)[..., 1:]
            config = self.config
            return terms, suppress(boxes_xyxy, scores, config.nms_iou, config.score_threshold, config.max_detections)

    def read(self, maps: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Deltas from the default boxes float32 [B, A, 4], and logits of background and classes [B, A, 1 + K]."""
        deltas = by_box(maps, self.locate, 4)
        return deltas, by_box(maps, self.classify, 1 + self.num_classes)

    def losses(self, deltas: Tensor, logits: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Smooth L1 and softmax cross-entropy, each a sum divided by the boxes that learn an object (equation 1)."""
        ious = iou_matrix(targets.boxes_xyxy, self.boxes_xyxy)  # [B, M, A]
        matched = bipartite(ious, targets.valid, threshold=MATCH_IOU)
        positive = matched >= 0
        boxes = positive.sum().clamp(min=1)
        wanted_xyxy, labels = assigned(targets, matched, self.boxes_xyxy)
        wrong_box = functional.smooth_l1_loss(deltas, encode(wanted_xyxy, self.boxes_xyxy), reduction="none").sum(-1)
        wrong_class = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # [B, A]
        learned = positive | hard_negative_mining(wrong_class, positive, self.config.negatives)
        return {
            "box": (wrong_box * positive).sum() / boxes,
            "class": (wrong_class * learned).sum() / boxes,
        }


def ssd(config: Ssd, info: DataInfo) -> Detector:
    """The detector that `config` describes, with the weights it asks for.

    Raises DataError if torchvision's weights can neither be found nor downloaded, CheckpointError if a file cannot be
    read or nothing in it fits, ConfigError if the picture is too small.
    """
    if config.backbone == "compact":
        return SsdDetector(config, info, compact_layout(config, info))
    detector = SsdDetector(config, info, vgg_layout(config, info))
    if config.weights != "none":
        detector.notes = load_vgg(detector, config)
    return detector


def _predictors(layout: Layout, outputs: int) -> nn.ModuleList:
    """For each map a 3x3 convolution (section 2.1) with some outputs for each of its boxes; Xavier as in their code."""
    places = zip(layout.channels, layout.per_cell, strict=True)
    layers = nn.ModuleList(nn.Conv2d(channels, boxes * outputs, kernel_size=3, padding=1) for channels, boxes in places)
    initialise(layers, "xavier")
    return layers
