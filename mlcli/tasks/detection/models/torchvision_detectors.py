"""Faster R-CNN, Mask R-CNN, RetinaNet and FCOS: torchvision's parts, called the way our detectors are.

Ren et al. 2015 (arXiv:1506.01497), He et al. 2017 (arXiv:1703.06870), Lin et al. 2017 (arXiv:1708.02002), Tian et al.
2019 (arXiv:1904.01355). Matching, sampling, losses and suppression are torchvision's. What it does to lists of pictures
of any size (normalise, resize, pad, and back) is left out: our batches have one shape and are ready.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.image_list import ImageList

from mlcli.data.info import DataInfo
from mlcli.data.statistics import IMAGENET_MEAN
from mlcli.errors import ConfigError
from mlcli.tasks.detection.models.config import TorchvisionDetector
from mlcli.tasks.detection.models.detector import Detector
from mlcli.tasks.detection.models.lists import to_detections, to_lists
from mlcli.tasks.detection.models.pretrained import load_pretrained
from mlcli.tasks.detection.models.torchvision_nets import ARCHS, ONE_STAGE, torchvision_net
from mlcli.tasks.detection.targets import Detections, Targets

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


def torchvision_detector(config: TorchvisionDetector, info: DataInfo) -> Detector:
    """The detector a YAML names. Its `notes` (tuple of str) say which weights were loaded and which did not fit.

    Raises ConfigError for an arch that does not belong to the name, or weights without an arch; DataError and
    CheckpointError if weights cannot be had (pretrained.py).
    """
    if config.arch is None and config.weights != "none":
        raise ConfigError(
            f"weights '{config.weights}' need an arch of torchvision's; the compact backbone has none",
            where="model.weights",
            fix=f"set model.arch to {ARCHS[config.name][0]}, or give your own weights as finetune.weights",
        )
    net: Any = torchvision_net(config, info)
    kind = OneStage if config.name in ONE_STAGE else TwoStage
    if config.arch is None or config.weights == "none":
        return kind(net, config, info)
    notes = load_pretrained(net, config.arch, config.weights)
    if info.mean != IMAGENET_MEAN:
        notes.append(f"{config.arch}: its weights expect ImageNet's mean and std; data.normalize=imagenet gives them")
    still = [layer for layer in net.backbone.body.modules() if isinstance(layer, nn.BatchNorm2d)]
    return kind(net, config, info, notes=tuple(notes), still=() if config.arch.endswith("_v2") else tuple(still))


class TorchvisionBase(Detector):
    """One of torchvision's detectors, called by its parts.

    Args:
        notes: what became of the weights, for people.
        still: batch norms that keep the statistics they came with. Learned on ImageNet or COCO, these are better than
            what the few pictures of a batch would make of them (He et al. 2017, section 3.1; torchvision freezes them,
            but not those of its second versions).
    """

    def __init__(
        self,
        net: Any,
        config: TorchvisionDetector,
        info: DataInfo,
        *,
        notes: tuple[str, ...] = (),
        still: tuple[nn.Module, ...] = (),
    ) -> None:
        super().__init__(info)
        self.net = net
        self.notes: tuple[str, ...] = notes
        self.net.notes = notes  # where `Start` looks
        self.max_detections = config.max_detections
        self._still = still  # a tuple, so they are not registered twice: they have their place in the net

    def train(self, mode: bool = True) -> "TorchvisionBase":
        super().train(mode)
        for norm in self._still:
            norm.eval()
        return self

    def forward(self, images: Tensor, targets: Targets | None = None) -> tuple[dict[str, Tensor], Detections | None]:
        pixels = self.normalize(images)
        image_list = ImageList(pixels, [self.image_size] * len(images))
        features = self.net.backbone(pixels)
        if not self.training:
            return {}, to_detections(self.find(image_list, features), self.max_detections)
        assert targets is not None, "nothing to learn from"
        losses = self.losses(image_list, features, to_lists(targets))
        return {TERMS[name]: loss for name, loss in losses.items()}, None

    def losses(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """torchvision's loss terms under its own names."""
        raise NotImplementedError

    def find(self, images: ImageList, features: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """For each picture the boxes [n, 4], scores [n], labels [n] in 1..K and perhaps masks [n, 1, 28, 28]."""
        raise NotImplementedError


class TwoStage(TorchvisionBase):
    """Faster and Mask R-CNN: regions are proposed, then each is looked at."""

    def losses(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        with _full_precision(images.tensors):
            features = {name: values.float() for name, values in features.items()}
            proposals, losses = self.net.rpn(images, features, targets)
            _, more = self.net.roi_heads(features, self._not_none(proposals), images.image_sizes, targets)
        return losses | more

    def find(self, images: ImageList, features: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        with _full_precision(images.tensors):
            features = {name: values.float() for name, values in features.items()}
            proposals, _ = self.net.rpn(images, features)
            found, _ = self.net.roi_heads(features, proposals, images.image_sizes)
        return found

    def propose(self, images: Tensor, most: int) -> list[Tensor]:
        """Where objects might be: uint8 or float [B, 3, H, W] in 0..255 -> B times float32 [p, 4], likeliest first.

        In evaluation mode. `most` instead of the usual number are kept of each picture.
        """
        pixels = self.normalize(images)
        features = {name: values.float() for name, values in self.net.backbone(pixels).items()}
        kept = self.net.rpn._post_nms_top_n
        self.net.rpn._post_nms_top_n = kept | {"testing": most}
        boxes, _ = self.net.rpn(ImageList(pixels, [self.image_size] * len(images)), features)
        self.net.rpn._post_nms_top_n = kept
        return boxes

    def _not_none(self, proposals: list[Tensor]) -> list[Tensor]:
        """The whole picture where nothing was proposed: the mean loss over no regions at all would be NaN."""
        height, width = self.image_size
        return [boxes if len(boxes) else boxes.new_tensor([[0, 0, width, height]]) for boxes in proposals]


class OneStage(TorchvisionBase):
    """RetinaNet and FCOS: every place of every map says what is there. They have no background class, so labels are
    0..K-1 inside."""

    def losses(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        maps = list(features.values())
        outputs, anchors, places = self._outputs(images, maps)
        targets = [target | {"labels": target["labels"] - 1} for target in targets]
        with _full_precision(images.tensors):
            if isinstance(self.net, FCOS):
                return self.net.compute_loss(targets, outputs, anchors, places)
            return self.net.compute_loss(targets, outputs, anchors)

    def find(self, images: ImageList, features: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        maps = list(features.values())
        outputs, anchors, places = self._outputs(images, maps)
        per_place = outputs["cls_logits"].shape[1] // sum(places)
        rows = [count * per_place for count in places]
        by_map = {name: list(values.split(rows, dim=1)) for name, values in outputs.items()}
        anchors_by_map = [list(one.split(rows)) for one in anchors]
        with _full_precision(images.tensors):
            found = self.net.postprocess_detections(by_map, anchors_by_map, images.image_sizes)
        return [one | {"labels": one["labels"] + 1} for one in found]

    def _outputs(self, images: ImageList, maps: list[Tensor]) -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
        """What the head says, float32 [B, anchors, ...]; the anchors of each picture; the places of each map."""
        outputs = {name: values.float() for name, values in self.net.head(maps).items()}
        anchors = self.net.anchor_generator(images, [values.float() for values in maps])
        return outputs, anchors, [values.shape[2] * values.shape[3] for values in maps]


def _full_precision(tensor: Tensor) -> torch.autocast:
    """Half precision ends here: bfloat16 knows only every second pixel beyond 256, and torchvision would put anchors in
    the type of the maps."""
    return torch.autocast(tensor.device.type, enabled=False)
