"""torchvision's four detectors without weights: on the compact backbone, sized for a CPU, or as torchvision has them.

On the compact backbone anchors and heads are for pictures of 128 to 320 pixels, a third of the papers' 800.
"""

from difflib import get_close_matches
from functools import partial
from typing import Any

from torch import nn
from torchvision.models import detection
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import MultiScaleRoIAlign

from mlcli.data.info import DataInfo
from mlcli.errors import ConfigError
from mlcli.tasks.detection.models.backbone import CompactFpn, compact_fpn
from mlcli.tasks.detection.models.config import TorchvisionDetector

ARCHS = {
    "faster_rcnn": (
        "fasterrcnn_resnet50_fpn",
        "fasterrcnn_resnet50_fpn_v2",
        "fasterrcnn_mobilenet_v3_large_fpn",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
    ),
    "mask_rcnn": ("maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"),
    "retinanet": ("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"),
    "fcos": ("fcos_resnet50_fpn",),
}
"""torchvision's builders for each of our names."""

ONE_STAGE = ("retinanet", "fcos")
"""They have no background class; the others count one class more."""

STRIDES = (8, 16, 32, 64)
"""Maps of the compact detectors. Each looks for objects half the size that the papers give to its stride, for pictures
are smaller; so the finest map (4), the dearest, is not needed."""

HIDDEN = 256
"""Units of the box head, a quarter of the papers': at 1024 it took most of the time of a step on a CPU."""

REGIONS = 64
"""Regions a picture that the heads learn from, an eighth of the papers', for the same reason."""

GROUPS = 4  # of group normalisation: 16 channels each at width 16 (Wu & He 2018, table 3); divides every width's maps


def torchvision_net(config: TorchvisionDetector, info: DataInfo) -> nn.Module:
    """The detector a YAML names, as torchvision has it: lists in, lists out.

    Raises ConfigError for an arch that torchvision does not have, or that is another detector.
    """
    if config.arch is not None:
        if config.arch not in ARCHS[config.name]:
            raise _unknown_arch(config.name, config.arch)
        return _named(config.arch, config, info)
    backbone = compact_fpn(config.width, STRIDES)
    match config.name:
        case "retinanet":
            return _retinanet(backbone, config, info)
        case "fcos":
            return _fcos(backbone, config, info)
        case _:
            return _rcnn(backbone, config, info)


def _unknown_arch(name: str, arch: str) -> ConfigError:
    own = ARCHS[name]
    other = next((known for known, archs in ARCHS.items() if arch in archs), None)
    if other:
        return ConfigError(
            f"arch '{arch}' is a {other}, not a {name}",
            where="model.arch",
            fix=f"set model.name to {other}, or model.arch to {own[0]}",
        )
    near = get_close_matches(arch.lower(), own, n=3)
    return ConfigError(
        f"torchvision has no {name} '{arch}'",
        where="model.arch",
        fix=f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(own)}, or null",
    )


def _named(arch: str, config: TorchvisionDetector, info: DataInfo) -> nn.Module:
    """Without weights, and so with batch norms that learn: frozen ones would give huge losses from scratch."""
    one_stage = config.name in ONE_STAGE
    return getattr(detection, arch)(
        weights=None,
        weights_backbone=None,  # the default downloads
        progress=False,
        num_classes=info.num_classes if one_stage else info.num_classes + 1,
        **_limits(config, "" if one_stage else "box_"),
        **_as_it_is(info),
    )


def _rcnn(backbone: CompactFpn, config: TorchvisionDetector, info: DataInfo) -> nn.Module:
    """Faster or Mask R-CNN: two sizes and three shapes of anchors at each place."""
    channels = backbone.out_channels
    sizes = tuple((2 * stride, 3 * stride) for stride in STRIDES)
    arguments: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(STRIDES)),
        "rpn_pre_nms_top_n_train": 500,
        "rpn_pre_nms_top_n_test": 500,
        "rpn_post_nms_top_n_train": 200,
        "rpn_post_nms_top_n_test": 200,
        "box_roi_pool": _pooling(7),
        "box_head": TwoMLPHead(channels * 7 * 7, HIDDEN),
        "box_predictor": FastRCNNPredictor(HIDDEN, info.num_classes + 1),
        "box_batch_size_per_image": REGIONS,
        **_limits(config, "box_"),
        **_as_it_is(info),
    }
    if config.name == "faster_rcnn":
        return detection.FasterRCNN(backbone, **arguments)
    return detection.MaskRCNN(
        backbone,
        mask_roi_pool=_pooling(14),
        mask_head=MaskRCNNHeads(channels, (channels,) * 2, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, info.num_classes + 1),
        **arguments,
    )


def _pooling(cells: int) -> MultiScaleRoIAlign:
    """Regions of up to 112 pixels from the map of stride 8, up to 224 from 16, larger ones from 32."""
    return MultiScaleRoIAlign(["0", "1", "2"], cells, sampling_ratio=2, canonical_scale=112, canonical_level=4)


def _retinanet(backbone: CompactFpn, config: TorchvisionDetector, info: DataInfo) -> nn.Module:
    """Three sizes, a third of an octave apart, and three shapes of anchors at each place (section 4)."""
    sizes = tuple(tuple(round(2 * stride * 2 ** (third / 3)) for third in range(3)) for stride in STRIDES)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(STRIDES))
    norm = partial(nn.GroupNorm, GROUPS)
    head = RetinaNetHead(backbone.out_channels, anchors.num_anchors_per_location()[0], info.num_classes, norm)
    return detection.RetinaNet(
        backbone, info.num_classes, anchor_generator=anchors, head=head, **_limits(config, ""), **_as_it_is(info)
    )


def _fcos(backbone: CompactFpn, config: TorchvisionDetector, info: DataInfo) -> nn.Module:
    """What torchvision calls anchors are the units that FCOS measures in: a map looks for boxes that reach 4 to 8 units
    from a place. Half a stride each, so that objects half the papers' size find a map; the radius in which places count
    as the centre of an object stays 1.5 strides."""
    anchors = AnchorGenerator(tuple((stride // 2,) for stride in STRIDES), ((1.0,),) * len(STRIDES))
    return detection.FCOS(
        backbone,
        info.num_classes,
        anchor_generator=anchors,
        head=_FcosHead(backbone.out_channels, info.num_classes),
        center_sampling_radius=3.0,
        **_limits(config, ""),
        **_as_it_is(info),
    )


class _FcosHead(FCOSHead):
    """torchvision's head with as many groups in its norms as fit narrow maps; it has 32, and no argument for it."""

    def __init__(self, channels: int, num_classes: int) -> None:
        nn.Module.__init__(self)
        norm = partial(nn.GroupNorm, GROUPS)
        self.box_coder = BoxLinearCoder(normalize_by_size=True)
        self.classification_head = FCOSClassificationHead(channels, 1, num_classes, norm_layer=norm)
        self.regression_head = FCOSRegressionHead(channels, 1, norm_layer=norm)


def _limits(config: TorchvisionDetector, prefix: str) -> dict[str, Any]:
    """What is kept of what is found, under torchvision's names."""
    return {
        f"{prefix}score_thresh": config.score_threshold,
        f"{prefix}nms_thresh": config.nms_iou,
        f"{prefix}detections_per_img": config.max_detections,
    }


def _as_it_is(info: DataInfo) -> dict[str, Any]:
    """Arguments by which torchvision's own way in neither normalises nor resizes; only ours is used, but they agree."""
    sides = info.input_shape[1:]
    return {"min_size": min(sides), "max_size": max(sides), "image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
