"""Faster R-CNN, Mask R-CNN, RetinaNet and FCOS: torchvision's parts, called the way our detectors are.

Losses and suppression are torchvision's; matching, sampling and RetinaNet's losses give what its own would. What it
does to lists of pictures of any size (normalise, resize, pad, and back) is left out: our batches have one shape.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, generalized_box_iou_loss

from mlcli.data.inspection import IMAGENET_MEAN
from mlcli.engine.terms import Term, Terms
from mlcli.tasks.detection.boxes import clip, iou_matrix
from mlcli.tasks.detection.models.batched import (
    Proposals,
    Regions,
    matched_anchors,
    matched_labels,
    matched_points,
    taken,
)
from mlcli.tasks.detection.models.detector import Common, Detector
from mlcli.tasks.detection.models.losses import focal, one_hot
from mlcli.tasks.detection.models.matching import IGNORED, draw_by_keys, max_iou
from mlcli.tasks.detection.models.region_align import RegionAlign
from mlcli.tasks.detection.models.torchvision_nets import Kind, load_pretrained, torchvision_net
from mlcli.tasks.detection.nms import Candidates, likeliest, reduced
from mlcli.tasks.detection.targets import Detections, Targets, to_detections, to_lists

TERMS = {
    "loss_objectness": "rpn_objectness",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "class",
    "loss_box_reg": "box",
    "loss_mask": "mask",
    "classification": "class",
    "bbox_regression": "box",
    "bbox_ctrness": "centerness",
}
"""torchvision's names of loss terms, and ours."""

Lists = list[dict[str, Tensor]]


class AnchorsOnce(nn.Module):
    """torchvision's anchors, which follow from the sizes of picture and maps, made once and kept: the same tensor
    float32 [A, 4] for each picture."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator
        self._made: tuple[Any, Tensor] | None = None

    def forward(self, images: ImageList, maps: list[Tensor]) -> list[Tensor]:
        first = maps[0]
        asked = (images.tensors.shape[2:], [one.shape[2:] for one in maps], first.dtype, first.device)
        if self._made is None or self._made[0] != asked:
            with torch.inference_mode(False):  # or training could not use what an evaluation has made
                (anchors,) = self.generator(ImageList(images.tensors, images.image_sizes[:1]), maps)
            self._made = asked, anchors
        return [self._made[1]] * len(images.image_sizes)


class TorchvisionBase(Detector):
    """One of torchvision's detectors, called by its parts; see `Detector` for what it takes and returns.

    Args:
        arch: one of torchvision's builders, such as fasterrcnn_resnet50_fpn; None for the compact backbone. Raises
            ConfigError for one that is unknown, or another detector.
        width: channels of the compact backbone at stride 2.
        backbone: another of the same strides in its place.
    """

    kind: Kind

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int],
        *,
        arch: str | None = None,
        width: int = 16,
        backbone: nn.Module | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(num_classes, image_size, **common)
        self.arch = arch
        self.net: Any = torchvision_net(
            self.kind,
            num_classes,
            image_size,
            arch=arch,
            width=width,
            backbone=backbone,
            score_thresh=self.score_threshold,
            nms_thresh=self.nms_iou,
            detections_per_img=self.max_detections,
        )
        self.first_stage.anchor_generator = AnchorsOnce(self.first_stage.anchor_generator)
        self._still: tuple[nn.Module, ...] = ()

    def load(self, weights: str | Path, class_names: Sequence[str] = ()) -> None:
        """Load `imagenet`, `coco` or a file, with an arch; `notes` say what was loaded. Raises as `load_pretrained`.

        The backbone's batch norms then keep the statistics they came with: learned on many pictures, these are better
        than what the few of a batch would make of them (He et al. 2017, section 3.1). torchvision freezes them, but not
        those of its second versions.
        """
        assert self.arch is not None, "the compact backbone has no weights to load"
        notes, loaded = load_pretrained(self, self.arch, weights, class_names)
        self.unloaded = frozenset(name for name, _ in self.named_parameters() if name not in loaded)
        if not torch.equal(self.mean.flatten(), torch.tensor(IMAGENET_MEAN)):
            advice = "data.normalize=imagenet gives them"
            notes.append(f"{self.arch}: its weights expect ImageNet's mean and std; {advice}")
        self.notes = self.net.notes = tuple(notes)  # the net's are what `FineTuning` reads
        norms = (layer for layer in self.net.backbone.body.modules() if isinstance(layer, nn.BatchNorm2d))
        self._still = () if self.arch.endswith("_v2") else tuple(norms)  # a tuple registers none of them twice

    def train(self, mode: bool = True) -> "TorchvisionBase":
        super().train(mode)
        for norm in self._still:
            norm.eval()
        return self

    def forward(self, images: Tensor, targets: Targets | None = None) -> tuple[Terms, Detections | None]:
        pixels = self.normalize(images)
        image_list = ImageList(pixels, [self.image_size] * len(images))
        features = self.net.backbone(pixels)
        assert targets is not None or not self.training, "training needs targets"
        return self.run(image_list, features, targets if self.training else None)

    def run(
        self, images: ImageList, features: dict[str, Tensor], targets: Targets | None = None
    ) -> tuple[Terms, Detections | None]:
        """Return the loss terms with targets, or what was found without, from the backbone's maps."""
        raise NotImplementedError

    def places(self, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        pixels = self.normalize(images)
        stage = self.first_stage
        maps = list(self.net.backbone(pixels).values())
        anchors = stage.anchor_generator(ImageList(pixels, [self.image_size]), maps)[0]
        if not hasattr(stage, "proposal_matcher"):  # FCOS matches points by region and size
            middle = (anchors[:, :2] + anchors[:, 2:]) / 2
            return middle.repeat(1, 2), torch.full((len(anchors),), -1)
        ious, matcher = iou_matrix(targets.boxes_xyxy, anchors), stage.proposal_matcher
        high, low = matcher.high_threshold, matcher.low_threshold
        return anchors, max_iou(ious, targets.valid, high=high, low=low, allow_low_quality=True)[0]

    @property
    def first_stage(self) -> Any:
        """The part that lays out anchors or points."""
        return self.net


class TwoStage(TorchvisionBase):
    """Faster and Mask R-CNN: regions are proposed, then each is looked at."""

    counts_alike = False  # anchors for one stage, regions for the other, and those of objects for masks

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.net.rpn.__class__, self.net.roi_heads.__class__ = Proposals, Regions  # the same parts, by the batch
        for layer in self.net.roi_heads.modules():
            if isinstance(layer, MultiScaleRoIAlign):
                layer.__class__ = RegionAlign
        self._anchors, self._regions = draw_by_keys(self.net.rpn, 0), draw_by_keys(self.net.roi_heads, 1)

    @property
    def first_stage(self) -> Any:
        return self.net.rpn

    def run(
        self, images: ImageList, features: dict[str, Tensor], targets: Targets | None = None
    ) -> tuple[Terms, Detections | None]:
        height, width = self.image_size
        lists = None if targets is None else to_lists(targets)
        self._anchors.keys = self._regions.keys = None if targets is None else targets.keys
        with _full_precision(images.tensors):
            features = {name: values.float() for name, values in features.items()}
            proposals, losses = self.net.rpn(images, features, lists)
            if lists is not None:  # the whole picture for no region: the mean loss over none would be NaN
                whole = [0.0, 0.0, width, height]
                proposals = [boxes if len(boxes) else boxes.new_tensor([whole]) for boxes in proposals]
            found, more = self.net.roi_heads(features, proposals, images.image_sizes, lists)
        if lists is None:
            return {}, to_detections(found, self.max_detections)
        of_regions = {"class": self._regions.drawn, "box": self._regions.drawn, "mask": self._regions.positive}
        counts = {"rpn_objectness": self._anchors.drawn, "rpn_box": self._anchors.drawn} | of_regions
        return {TERMS[name]: Term(loss, counts[TERMS[name]]) for name, loss in (losses | more).items()}, None

    def propose(self, images: Tensor, most: int) -> list[Tensor]:
        """Propose regions: uint8 or float [B, 3, H, W] in 0..255 -> B times float32 [p, 4], likeliest first.

        In evaluation mode. `most` instead of the usual number are kept of each picture.
        """
        pixels = self.normalize(images)
        features = {name: values.float() for name, values in self.net.backbone(pixels).items()}
        kept = self.net.rpn._post_nms_top_n
        self.net.rpn._post_nms_top_n = kept | {"testing": most}
        boxes, _ = self.net.rpn(ImageList(pixels, [self.image_size] * len(images)), features)
        self.net.rpn._post_nms_top_n = kept
        return boxes


class OneStage(TorchvisionBase):
    """RetinaNet and FCOS: every place of every map says what is there. They have no background class, so labels are
    0..K-1 inside."""

    def run(
        self, images: ImageList, features: dict[str, Tensor], targets: Targets | None = None
    ) -> tuple[Terms, Detections | None]:
        maps = list(features.values())
        outputs = {name: values.float() for name, values in self.net.head(maps).items()}  # [B, anchors, ...]
        anchors = self.net.anchor_generator(images, [values.float() for values in maps])
        places = [values.shape[2] * values.shape[3] for values in maps]
        rows = [count * (outputs["cls_logits"].shape[1] // sum(places)) for count in places]
        with _full_precision(images.tensors):
            if targets is not None:
                losses, count = self.losses(to_lists(targets), outputs, anchors, places)
                return {TERMS[name]: Term(loss, count) for name, loss in losses.items()}, None
            found = self.candidates(outputs, anchors[0], rows)
            scores, order = found.scores.sort(dim=1, descending=True)
            boxes, labels = (
                found.boxes_xyxy.gather(1, order[..., None].expand(-1, -1, 4)),
                found.labels.gather(1, order),
            )
            surest = Candidates(boxes, scores, labels)
            return {}, reduced(surest, self.nms_iou, self.score_threshold, self.max_detections)

    def candidates(self, outputs: dict[str, Tensor], anchors_xyxy: Tensor, rows: list[int]) -> Candidates:
        """Return the likeliest of each map, as many as torchvision takes, from the head's outputs.

        anchors_xyxy: [A, 4], those of an image; rows: how many of them are each map's.
        """
        scores, deltas = self.scores(outputs), outputs["bbox_regression"]
        anchors = anchors_xyxy.expand(deltas.shape[0], -1, -1)
        boxes = self.decode(deltas.flatten(0, 1), anchors.flatten(0, 1)).reshape(deltas.shape)
        parts = zip(clip(boxes, *self.image_size).split(rows, dim=1), scores.split(rows, dim=1), strict=True)
        found = [likeliest(*part, self.net.topk_candidates) for part in parts]
        return Candidates(*(torch.cat(column, dim=1) for column in zip(*found, strict=True)))

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """Return what the head says of each class in 0..1: [B, A, K]."""
        return outputs["cls_logits"].sigmoid()

    def decode(self, deltas: Tensor, anchors_xyxy: Tensor) -> Tensor:
        """Return boxes [N, 4] from what the head says of them and their anchors, both [N, 4]."""
        raise NotImplementedError

    def losses(
        self, targets: Lists, outputs: dict[str, Tensor], anchors: list[Tensor], places: list[int]
    ) -> tuple[dict[str, Tensor], Tensor | int]:
        """Return torchvision's loss terms, and what they are means over. Labels of the targets begin at 1."""
        raise NotImplementedError


class FasterRcnnDetector(TwoStage):
    """Ren et al. 2015 (arXiv:1506.01497). Terms: rpn_objectness, rpn_box, class, box."""

    kind = "faster_rcnn"


class MaskRcnnDetector(TwoStage):
    """He et al. 2017 (arXiv:1703.06870), which learns from masks too. Terms: those of Faster R-CNN, and mask."""

    kind = "mask_rcnn"
    has_masks = True


class RetinaNetDetector(OneStage):
    """Lin et al. 2017 (arXiv:1708.02002): the focal loss. Terms: class, box."""

    kind = "retinanet"

    def decode(self, deltas: Tensor, anchors_xyxy: Tensor) -> Tensor:
        return self.net.box_coder.decode_single(deltas, anchors_xyxy)

    def losses(
        self, targets: Lists, outputs: dict[str, Tensor], anchors: list[Tensor], places: list[int]
    ) -> tuple[dict[str, Tensor], Tensor | int]:
        matcher, boxes = self.net.proposal_matcher, [target["boxes"] for target in targets]
        matched = matched_anchors(boxes, anchors[0], high=matcher.high_threshold, low=matcher.low_threshold,
                                  allow_low_quality=True)  # fmt: skip
        return {
            "classification": self._class_loss(targets, outputs["cls_logits"], matched),
            "bbox_regression": self._box_loss(boxes, outputs["bbox_regression"], anchors[0], matched),
        }, len(targets)  # the mean of each picture's own means

    def _class_loss(self, targets: Lists, logits: Tensor, matched: Tensor) -> Tensor:
        """Return torchvision's, of all pictures at once. logits: [B, A, K]."""
        labels = matched_labels([target["labels"] for target in targets], matched)
        of_anchors = focal(logits, one_hot(labels, logits.shape[2])).sum(dim=2) * (matched != IGNORED)
        return (of_anchors.sum(dim=1) / (matched >= 0).sum(dim=1).clamp(min=1)).mean()

    def _box_loss(self, boxes: list[Tensor], deltas: Tensor, anchors_xyxy: Tensor, matched: Tensor) -> Tensor:
        """Return torchvision's, of all pictures at once. boxes: B times [n, 4]; deltas: [B, A, 4]."""
        here, coder = matched >= 0, self.net.box_coder
        picture, place = here.nonzero(as_tuple=True)  # of the anchors that learn an object
        found, wanted, anchors = deltas[picture, place], taken(boxes, matched)[picture, place], anchors_xyxy[place]
        if self.net.head.regression_head._loss_type == "giou":  # of retinanet_resnet50_fpn_v2
            distances = generalized_box_iou_loss(coder.decode_single(found, anchors), wanted)
        else:
            distances = (found - coder.encode_single(wanted, anchors)).abs().sum(dim=1)
        return (distances / here.sum(dim=1)[picture]).sum() / len(matched)


class FcosDetector(OneStage):
    """Tian et al. 2019 (arXiv:1904.01355): no anchors. Terms: class, box, centerness."""

    kind = "fcos"

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """Return the geometric mean of class and centerness."""
        return (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()

    def decode(self, deltas: Tensor, anchors_xyxy: Tensor) -> Tensor:
        return self.net.box_coder.decode(deltas, anchors_xyxy)

    def losses(
        self, targets: Lists, outputs: dict[str, Tensor], anchors: list[Tensor], places: list[int]
    ) -> tuple[dict[str, Tensor], Tensor | int]:
        boxes = [target["boxes"] for target in targets]
        matched = matched_points(boxes, anchors[0], places, self.net.center_sampling_radius)
        from_zero = [target | {"labels": target["labels"] - 1} for target in targets]
        losses = self.net.head.compute_loss(from_zero, outputs, anchors, list(matched.unbind()))
        return losses, (matched >= 0).sum()


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Half precision ends here: bfloat16 knows only every second pixel beyond 256, and torchvision would put anchors in
    the type of the maps."""
    return torch.autocast(tensor.device.type, enabled=False)
