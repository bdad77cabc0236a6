"""torchvision's four detectors: on the compact backbone, sized for a CPU, or as torchvision has them, with its weights.

On the compact backbone anchors and heads are for pictures of 128 to 320 pixels, a third of the papers' 800. Of weights
learned on ImageNet or COCO, a detector for K classes takes all but the layers that name the classes, whose shapes
differ: of these it takes the classes that COCO calls alike, and the others start anew.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from torch import nn
from torchvision import models
from torchvision.models import detection
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import MultiScaleRoIAlign

from mlcli.errors import ConfigError
from mlcli.models.layers import initialise
from mlcli.models.pretrained import fetched
from mlcli.models.weights import ClassRows, copy_matching, read_weights
from mlcli.tasks.detection.models.backbone import CompactFpn, compact_fpn

Kind = Literal["faster_rcnn", "mask_rcnn", "retinanet", "fcos"]

ARCHS: dict[Kind, tuple[str, ...]] = {
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

FIRST_REACH = 4.0
"""Distances that FCOS begins with, in its units. torchvision's begin at 0, where a ReLU lets half of them not learn and
no box overlaps an object."""

GROUPS = 4  # of group normalisation: 16 channels each at width 16 (Wu & He 2018, table 3); divides every width's maps


RENAMED = (
    (r"\b(inner_blocks|layer_blocks)\.(\d+)\.(weight|bias)$", r"\1.\2.0.\3"),
    (r"\brpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"\bmask_head\.mask_fcn(\d+)\.", lambda found: f"mask_head.{int(found[1]) - 1}.0."),
    (r"\b(classification|regression)_head\.conv\.([0246])\.(weight|bias)$",
     lambda found: f"{found[1]}_head.conv.{int(found[2]) // 2}.0.{found[3]}"),
)  # fmt: skip
"""Names in torchvision's files of 2019 and 2020, and what those layers are called since version 0.13."""

BACKBONES = {"resnet50": "ResNet50_Weights", "mobilenet_v3_large": "MobileNet_V3_Large_Weights"}
"""Part of the name of a detector, and torchvision's table of ImageNet weights for it."""

EPSILON_FREE = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
"""Their COCO weights were learned with batch norms that divide by sqrt(variance), without the usual epsilon."""


def torchvision_net(
    kind: Kind,
    num_classes: int,
    image_size: tuple[int, int],
    *,
    arch: str | None = None,
    width: int = 16,
    backbone: nn.Module | None = None,
    **limits: float,
) -> nn.Module:
    """Build the detector as torchvision has it, without weights: lists in, lists out.

    See `TorchvisionBase` for arch, width and backbone; `limits` are torchvision's score_thresh, nms_thresh,
    detections_per_img. Raises ConfigError for an arch that torchvision does not have, or that is another detector.
    """
    one_stage = kind in ONE_STAGE
    arguments: dict[str, Any] = {
        **(limits if one_stage else {f"box_{name}": limit for name, limit in limits.items()}),
        # torchvision's own way in neither normalises nor resizes; only ours is used, but they agree
        "min_size": min(image_size),
        "max_size": max(image_size),
        "image_mean": (0.0,) * 3,
        "image_std": (1.0,) * 3,
    }
    if arch is not None:
        if arch not in ARCHS[kind]:
            raise _unknown_arch(kind, arch)
        outputs = num_classes if one_stage else num_classes + 1
        # Without weights, and so with batch norms that learn: frozen ones would give huge losses from scratch. The
        # default of weights_backbone downloads.
        no_weights = {"weights": None, "weights_backbone": None, "progress": False}
        return getattr(detection, arch)(num_classes=outputs, **no_weights, **arguments)
    pyramid = compact_fpn(width, STRIDES, backbone)
    match kind:
        case "retinanet":
            return _retinanet(pyramid, num_classes, arguments)
        case "fcos":
            return _fcos(pyramid, num_classes, arguments)
        case "faster_rcnn" | "mask_rcnn":
            return _rcnn(pyramid, num_classes, arguments, masks=kind == "mask_rcnn")


def _unknown_arch(name: Kind, arch: str) -> ConfigError:
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


def _rcnn(backbone: CompactFpn, num_classes: int, arguments: dict[str, Any], *, masks: bool) -> nn.Module:
    """Faster or Mask R-CNN: two sizes and three shapes of anchors at each place."""
    channels = backbone.out_channels
    sizes = tuple((2 * stride, 3 * stride) for stride in STRIDES)
    arguments |= {
        "rpn_anchor_generator": AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(STRIDES)),
        "rpn_pre_nms_top_n_train": 500,
        "rpn_pre_nms_top_n_test": 500,
        "rpn_post_nms_top_n_train": 200,
        "rpn_post_nms_top_n_test": 200,
        "box_roi_pool": _pooling(7),
        "box_head": TwoMLPHead(channels * 7 * 7, HIDDEN),
        "box_predictor": FastRCNNPredictor(HIDDEN, num_classes + 1),
        "box_batch_size_per_image": REGIONS,
    }
    if not masks:
        return detection.FasterRCNN(backbone, **arguments)
    return detection.MaskRCNN(
        backbone,
        mask_roi_pool=_pooling(14),
        mask_head=MaskRCNNHeads(channels, (channels,) * 2, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, num_classes + 1),
        **arguments,
    )


def _pooling(cells: int) -> MultiScaleRoIAlign:
    """Regions of up to 112 pixels from the map of stride 8, up to 224 from 16, larger ones from 32."""
    return MultiScaleRoIAlign(["0", "1", "2"], cells, sampling_ratio=2, canonical_scale=112, canonical_level=4)


def _retinanet(backbone: CompactFpn, num_classes: int, arguments: dict[str, Any]) -> nn.Module:
    """Three sizes, a third of an octave apart, and three shapes of anchors at each place (section 4)."""
    sizes = tuple(tuple(round(2 * stride * 2 ** (third / 3)) for third in range(3)) for stride in STRIDES)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(STRIDES))
    norm = partial(nn.GroupNorm, GROUPS)
    head = RetinaNetHead(backbone.out_channels, anchors.num_anchors_per_location()[0], num_classes, norm)
    _begin(head)
    return detection.RetinaNet(backbone, num_classes, anchor_generator=anchors, head=head, **arguments)


def _fcos(backbone: CompactFpn, num_classes: int, arguments: dict[str, Any]) -> nn.Module:
    """FCOS. torchvision's anchors are the units that it measures in: a map looks for boxes that reach 4 to 8 units from
    a place. Half a stride each, so that objects half the papers' size find a map; the radius in which places count as
    the centre of an object stays 1.5 strides."""
    anchors = AnchorGenerator(tuple((stride // 2,) for stride in STRIDES), ((1.0,),) * len(STRIDES))
    head = _FcosHead(backbone.out_channels, num_classes)
    arguments |= {"anchor_generator": anchors, "head": head, "center_sampling_radius": 3.0}
    return detection.FCOS(backbone, num_classes, **arguments)


class _FcosHead(FCOSHead):
    """torchvision's head with as many groups in its norms as fit narrow maps; it has 32, and no argument for it."""

    def __init__(self, channels: int, num_classes: int) -> None:
        nn.Module.__init__(self)
        norm = partial(nn.GroupNorm, GROUPS)
        self.box_coder = BoxLinearCoder(normalize_by_size=True)
        self.classification_head = FCOSClassificationHead(channels, 1, num_classes, norm_layer=norm)
        self.regression_head = FCOSRegressionHead(channels, 1, norm_layer=norm)
        nn.init.constant_(self.regression_head.bbox_reg.bias, FIRST_REACH)
        _begin(self)


def _begin(head: Any) -> None:
    """Draw the towers' first weights by their size (He et al. 2015, arXiv:1502.01852). torchvision's, of a standard
    deviation of 0.01, are for SGD: below norms, AdamW's first steps of the learning rate would each turn them by a
    third."""
    initialise(nn.ModuleList([head.classification_head.conv, head.regression_head.conv]), "kaiming")


def load_pretrained(
    detector: nn.Module, arch: str, weights: str | Path, class_names: Sequence[str]
) -> tuple[list[str], set[str]]:
    """Load `imagenet` (the backbone), `coco` (everything that fits) or a file into the `net` of a detector.

    Of torchvision's own COCO weights, `coco` or the file of that name, the classes that COCO calls as class_names does
    (`person`, `dining table`) are taken over too. Returns lines for people: what was loaded and what was not; and the
    names of what was, in the detector. Raises DataError if torchvision's weights can neither be found nor downloaded,
    CheckpointError if a file cannot be read or nothing in it fits.
    """
    if weights == "imagenet":
        path = fetched(_imagenet_url(arch))
        body = detector.get_submodule("net.backbone.body")
        # MobileNet keeps what we need under `features`; the classifier is left behind.
        kept = {name.removeprefix("features."): value for name, value in read_weights(path).items()}
        kept = {name: value for name, value in kept.items() if not name.startswith(("fc.", "classifier."))}
        report = copy_matching(body, kept, path)
        lines = [f"backbone of {arch} from {path.name}: {line}" for line in report.lines()]
        return lines, {f"net.backbone.body.{name}" for name in report.loaded}

    theirs: Any = models.get_model_weights(arch).COCO_V1
    path = fetched(theirs.url) if weights == "coco" else Path(weights)
    own = detector.state_dict()
    tensors = {}
    for name, value in read_weights(path).items():
        name = f"net.{name.removeprefix('net.')}"
        if name not in own:  # FCOS still has layers named in the old way
            for old, new in RENAMED:
                name = re.sub(old, new, name)
        if name not in ("net.mean", "net.std"):
            tensors[name] = value
    told, drawn = list[str](), set[str]()
    is_theirs = path.name == Path(urlparse(theirs.url).path).name
    categories = theirs.meta["categories"][1:]  # without the background
    if is_theirs and {*class_names} & {*categories}:
        outputs = len(categories) + 1  # 91, which divides the sides of no other layer
        shaped = [name for name, value in tensors.items() if name in own and value.ndim and len(value) % outputs == 0]
        rows = {name: len(tensors[name]) // outputs for name in shaped}
        classes = ClassRows(tuple(class_names), rows, {name for name in rows if "bbox_pred" in name})
        tensors, told = classes.moved(tensors, categories, detector), [classes.told(categories)]
        if not {*class_names} <= {*categories}:
            drawn = {*rows}  # some of their rows are as they were drawn
    report = copy_matching(detector, tensors, path)
    if arch in EPSILON_FREE and is_theirs:
        # Take epsilon off the variances, so that adding it gives what was divided by when the weights were learned.
        # torchvision sets epsilon to 0; but epsilon is in no checkpoint, so a model rebuilt later would differ.
        for layer in detector.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None:
                layer.running_var -= layer.eps
    return [f"{arch} from {path.name}: {line}" for line in (*report.lines(), *told)], {*report.loaded} - drawn


def _imagenet_url(arch: str) -> str:
    table: Any = next(getattr(models, table) for name, table in BACKBONES.items() if name in arch)
    return table.IMAGENET1K_V1.url
