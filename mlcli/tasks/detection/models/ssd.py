"""SSD, the single shot multibox detector: maps predict class and offsets of default boxes.

Liu et al. 2016 (arXiv:1512.02325). On the compact backbone, or on VGG-16 as in the paper, its linear layers turned into
convolutions and smaller maps on top (section 3 and figure 2): torchvision's module, so that its weights load. Without
batch norm and for 300x300 the whole is the same function as ssd300_vgg16. Other sizes get as many maps as fit.
"""

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import VGG16_BN_Weights, VGG16_Weights, vgg
from torchvision.models.detection import SSD300_VGG16_Weights
from torchvision.models.detection.ssd import SSDFeatureExtractorVGG

from mlcli.engine.terms import Term, Terms
from mlcli.errors import CheckpointError, ConfigError
from mlcli.models.layers import initialise
from mlcli.models.pretrained import fetched
from mlcli.models.weights import copy_matching, read_weights
from mlcli.tasks.detection.boxes import convert, iou_matrix
from mlcli.tasks.detection.models.anchors import cell_shapes, decode, default_boxes, encode, grid_points
from mlcli.tasks.detection.models.backbone import by_box, compact_fpn, map_size
from mlcli.tasks.detection.models.detector import CommonSingleShot, SingleShot
from mlcli.tasks.detection.models.losses import hard_negative_mining
from mlcli.tasks.detection.models.matching import assigned, bipartite
from mlcli.tasks.detection.targets import Targets

MATCH_IOU = 0.5
"""Default boxes that overlap an object by this or more learn it as well as its best one (section 2.2)."""

COMPACT_STRIDES = (8, 16, 32, 64, 128)
"""Of the compact backbone's maps; those of fewer than LEAST_CELLS a side are left out."""

LEAST_CELLS = 2
"""A single cell says nothing that the map before does not, and its batch norm would have one value an image."""

COMPACT_RATIOS = (2.0, 3.0)
"""Default boxes are also 2 and 3 times as wide as high, and the reverse: 6 a cell with the two squares."""

FINEST_SCALES, COARSEST_SCALES = (0.05, 0.08, 0.12, 0.16, 0.2, 0.3, 0.4), (0.3, 0.4, 0.5, 0.7, 0.9)
"""Scales that are tried for the objects of a data set, of the finest and of the coarsest map."""

NEARLY = 0.02
"""Of scales that leave so small a share of the objects more without a default box than the best, which is equal."""

LEAST_SIDE = 64
"""Smaller pictures would leave VGG's second map fewer than 4 cells a side."""

VGG_CHANNELS = (512, 1024, 512, 256, 256, 256)
"""Of each map."""

VGG_SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
"""Sides of the default boxes of each map, and one more, as shares of the picture (the published code's for COCO)."""

VGG_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
"""Of each map: boxes so many times as wide as high, and the reverse (section 3.1)."""

CAFFE_MEAN, CAFFE_STD = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3
"""Statistics for the weights without batch norm, learned with the mean taken off but the range of 0..255 left."""


class SsdDetector(SingleShot):
    """Terms: box, class. See `SingleShot` for what it takes and returns.

    Predictions are the deltas from the default boxes [B, A, 4], and logits of background and classes [B, A, 1 + K].

    Args:
        backbone: "compact", or another of the same strides; or the paper's "vgg16", which takes pictures of 64x64
            pixels or more (else ConfigError).
        width: channels of the compact backbone at stride 2.
        batch_norm: for "vgg16", after each of VGG's convolutions, as torchvision's vgg16_bn; the paper has none.
        negatives: background boxes learned from for each object, the hardest first.
        scales: sides of the default boxes of the finest and of the coarsest map, as shares of the picture's; for
            "vgg16" the paper's.
    """

    boxes_xyxy: Tensor

    def __init__(
        self,
        num_classes: int,
        image_size: tuple[int, int],
        *,
        backbone: Literal["compact", "vgg16"] | nn.Module = "compact",
        width: int = 16,
        batch_norm: bool = True,
        negatives: float = 3.0,
        scales: tuple[float, float] = (0.1, 0.9),
        **common: Unpack[CommonSingleShot],
    ) -> None:
        super().__init__(num_classes, image_size, **common)
        other = backbone if isinstance(backbone, nn.Module) else None
        vgg = backbone == "vgg16"
        layout = vgg_layout(image_size, batch_norm) if vgg else compact_layout(image_size, width, other, scales)
        self.negatives = negatives
        self.backbone = layout.backbone
        self.locate = _predictors(layout, 4)
        self.classify = _predictors(layout, 1 + num_classes)
        self.register_buffer("boxes_xyxy", layout.boxes_xyxy, persistent=False)  # [A, 4]

    def predict(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        maps: Mapping[str, Tensor] = self.backbone(pixels)
        return by_box(maps, self.locate, 4), by_box(maps, self.classify, 1 + self.num_classes)

    def losses(self, predictions: tuple[Tensor, Tensor], targets: Targets) -> Terms:
        """Smooth L1 and softmax cross-entropy, each a sum divided by the boxes that learn an object (equation 1)."""
        deltas, logits = predictions
        ious = iou_matrix(targets.boxes_xyxy, self.boxes_xyxy)  # [B, M, A]
        matched = bipartite(ious, targets.valid, threshold=MATCH_IOU)
        positive = matched >= 0
        boxes = positive.sum()
        wanted_xyxy, labels = assigned(targets, matched, self.boxes_xyxy)
        wrong_box = functional.smooth_l1_loss(deltas, encode(wanted_xyxy, self.boxes_xyxy), reduction="none").sum(-1)
        wrong_class = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # [B, A]
        learned = positive | hard_negative_mining(wrong_class, positive, self.negatives)
        return {
            "box": Term.of((wrong_box * positive).sum(), boxes),
            "class": Term.of((wrong_class * learned).sum(), boxes),
        }

    def places(self, images: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        ious = iou_matrix(targets.boxes_xyxy, self.boxes_xyxy)
        return self.boxes_xyxy, bipartite(ious, targets.valid, threshold=MATCH_IOU)[0]

    def candidates(self, predictions: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        deltas, logits = predictions
        return decode(deltas, self.boxes_xyxy), logits.softmax(dim=-1)[..., 1:]


class Layout(NamedTuple):
    """A backbone and the boxes laid out over its maps.

    backbone: float32 [B, 3, H, W] -> maps by name, finest first.
    channels, per_cell: of each map, its channels and its default boxes a cell.
    boxes_xyxy: float32 [A, 4] in pixels; map after map, row by row, cell by cell.
    """

    backbone: nn.Module
    channels: tuple[int, ...]
    per_cell: tuple[int, ...]
    boxes_xyxy: Tensor


def compact_layout(
    image_size: tuple[int, int],
    width: int = 16,
    backbone: nn.Module | None = None,
    scales: tuple[float, float] = (0.1, 0.9),
) -> Layout:
    """Lay out the compact backbone, or another of its strides, with maps from stride 8 on, as coarse as the picture's
    size allows."""
    strides = _compact_strides(image_size)
    pyramid, count = compact_fpn(width, strides, backbone), len(strides)
    boxes_xyxy = _compact_boxes(image_size, scales)
    return Layout(pyramid, (pyramid.out_channels,) * count, (2 + 2 * len(COMPACT_RATIOS),) * count, boxes_xyxy)


def _compact_strides(image_size: tuple[int, int]) -> list[int]:
    return [stride for stride in COMPACT_STRIDES if min(map_size(image_size, stride)) >= LEAST_CELLS] or [8]


def _compact_boxes(image_size: tuple[int, int], scales: tuple[float, float]) -> Tensor:
    sizes = [map_size(image_size, stride) for stride in _compact_strides(image_size)]
    return default_boxes(image_size, sizes, [COMPACT_RATIOS] * len(sizes), *scales)


def fitting_scales(boxes_xyxy: Tensor, image_size: tuple[int, int]) -> tuple[float, float]:
    """Return the scales whose default boxes overlap the most objects by MATCH_IOU; of those that are nearly as good,
    the ones with which the most boxes learn an object.

    boxes_xyxy: float32 [n, 4], the objects in pixels of the input; n > 0.
    """
    found = []
    for scales in product(FINEST_SCALES, COARSEST_SCALES):
        if scales[0] < scales[1]:
            overlaps = iou_matrix(boxes_xyxy, _compact_boxes(image_size, scales)) >= MATCH_IOU
            found.append((float((~overlaps.any(dim=1)).float().mean()), -float(overlaps.float().sum()), scales))
    least = min(without for without, _, _ in found)
    return min((one for one in found if one[0] <= least + NEARLY), key=lambda one: one[1])[2]


def vgg_layout(image_size: tuple[int, int], batch_norm: bool = True) -> Layout:
    """Lay out VGG-16 and its default boxes. Raises ConfigError if the picture is too small."""
    height, width = image_size
    if min(height, width) < LEAST_SIDE:
        raise ConfigError(
            f"vgg16 needs pictures of {LEAST_SIDE}x{LEAST_SIDE} or more, these are {height}x{width}",
            where="model.backbone",
            fix=f"set data.image_size to {LEAST_SIDE} or more, or model.backbone to compact",
        )
    sizes = vgg_map_sizes(height, width)
    boxes_xyxy = torch.cat([_vgg_boxes(level, size, image_size) for level, size in enumerate(sizes)])
    per_cell = tuple(2 + 2 * len(ratios) for ratios in VGG_RATIOS[: len(sizes)])
    return Layout(vgg_maps(batch_norm, len(sizes)), VGG_CHANNELS[: len(sizes)], per_cell, boxes_xyxy)


def vgg_maps(batch_norm: bool, count: int) -> SSDFeatureExtractorVGG:
    """float32 [B, 3, H, W] -> {"0": [B, 512, H / 8, W / 8], "1": [B, 1024, H / 16, W / 16], "2": [B, 512, ...], ...}

    count: of the maps, at least 2.
    """
    with torch.random.fork_rng(devices=[]):  # its first weights are not used, so they cost no random numbers
        maps = SSDFeatureExtractorVGG(vgg.make_layers(vgg.cfgs["D"], batch_norm), highres=False)
    for layer in maps.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()  # the same seed gives the same weights as in version 0.1.0, which drew twice
    maps.extra = maps.extra[: count - 1]
    initialise(maps, "xavier")
    initialise(nn.ModuleList([maps.features, maps.extra[0][:-1]]), "kaiming")  # VGG's own layers, as in models/vgg.py
    return maps


def vgg_map_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Return height and width of each map in cells, finest first; as many as fit both ways."""

    def sides(pixels: int) -> list[int]:
        """Cells along one side of the picture in each map; 300 pixels: 38, 19, 10, 5, 3, 1."""
        cells = [-(-(pixels // 4) // 2)]
        cells.append(cells[-1] // 2)
        for _ in range(2):
            cells.append(-(-cells[-1] // 2))
        for _ in range(2):
            cells.append(cells[-1] - 2)
        return [count for count in cells if count > 0]

    return list(zip(sides(height), sides(width), strict=False))


def load_vgg(detector: SsdDetector, weights: Literal["imagenet", "coco"] | Path, *, batch_norm: bool) -> None:
    """Load torchvision's weights or a file wherever they fit; the detector's `notes` say what was loaded and what not.

    Raises DataError if torchvision's weights can neither be found nor downloaded, CheckpointError if a file cannot be
    read, belongs to the other kind of VGG-16, or nothing in it fits.
    """
    match weights:
        case "coco":
            path = fetched(SSD300_VGG16_Weights.COCO_V1.url)
        case "imagenet":
            plain, normed = VGG16_Weights.IMAGENET1K_FEATURES, VGG16_BN_Weights.IMAGENET1K_V1
            path = fetched(normed.url if batch_norm else plain.url)
        case _:
            path = Path(weights)
    tensors = read_weights(path)
    if any(name.endswith("running_mean") for name in tensors) != batch_norm:
        raise CheckpointError(
            f"{path} holds VGG-16 {'without' if batch_norm else 'with'} batch normalisation",
            fix=f"set model.batch_norm to {str(not batch_norm).lower()}, or choose other weights",
        )
    own = {_own_name(name, detector): _convolution(name, tensor) for name, tensor in tensors.items()}
    if not batch_norm:  # nothing else makes up for another range of input; mlcli's own files say theirs
        detector.mean.copy_(own.get("mean", torch.tensor(CAFFE_MEAN).view(1, 3, 1, 1)))
        detector.std.copy_(own.get("std", torch.tensor(CAFFE_STD).view(1, 3, 1, 1)))
    report = copy_matching(detector, own, path)
    detector.unloaded = frozenset((*report.missing, *report.mismatched))
    detector.notes = tuple(f"ssd vgg16 from {path.name}: {line}" for line in report.lines())


def _own_name(name: str, detector: SsdDetector) -> str:
    """Return our name of a tensor of torchvision's ssd300_vgg16 or vgg16; other names stay."""
    name = name.replace("head.classification_head.module_list.", "classify.")
    name = name.replace("head.regression_head.module_list.", "locate.")
    backbone = detector.backbone
    assert isinstance(backbone, SSDFeatureExtractorVGG)
    fully_connected = len(backbone.extra[0]) - 1  # the last of its layers
    if found := re.match(r"features\.(\d+)\.(\w+)$", name):
        place, tensor = int(found[1]), found[2]
        last = len(backbone.features)
        return f"backbone.features.{place}.{tensor}" if place < last else f"backbone.extra.0.{place - last}.{tensor}"
    if found := re.match(r"classifier\.([03])\.(\w+)$", name):
        return f"backbone.extra.0.{fully_connected}.{1 if found[1] == '0' else 3}.{found[2]}"
    return name


def _convolution(name: str, tensor: Tensor) -> Tensor:
    """Turn VGG's linear layers into convolutions: every fourth neuron, and of fc6 every third weight both ways."""
    match name, tuple(tensor.shape):
        case "classifier.0.weight", (4096, 25088):
            return tensor.view(4096, 512, 7, 7)[::4, :, ::3, ::3]
        case "classifier.3.weight", (4096, 4096):
            return tensor[::4, ::4, None, None]
        case (("classifier.0.bias" | "classifier.3.bias"), (4096,)):
            return tensor[::4]
    return tensor


def _vgg_boxes(level: int, cells: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """float32 [h * w * boxes, 4] in pixels, xyxy, as torchvision's DefaultBoxGenerator lays them out.

    That one has one step for both sides, so it cannot spread the last maps over a picture that is not square.
    """
    whole = torch.tensor([image_size[1], image_size[0]], dtype=torch.float32)
    sizes_wh = cell_shapes(VGG_SCALES[level], VGG_SCALES[level + 1], VGG_RATIOS[level]).clamp(max=1) * whole
    # Where maps are padded, cells are a stride apart; the last two are spread over the picture instead.
    step = torch.tensor((8.0 * 2**level,) * 2) if level < 4 else whole / torch.tensor([cells[1], cells[0]])
    centres_xy = grid_points(*cells) * step
    boxes = [centres_xy.repeat_interleave(len(sizes_wh), dim=0), sizes_wh.repeat(len(centres_xy), 1)]
    return convert(torch.cat(boxes, dim=1), "cxcywh", "xyxy")


def _predictors(layout: Layout, outputs: int) -> nn.ModuleList:
    """For each map a 3x3 convolution (section 2.1) with some outputs for each of its boxes; Xavier as in their code."""
    places = zip(layout.channels, layout.per_cell, strict=True)
    layers = nn.ModuleList(nn.Conv2d(channels, boxes * outputs, kernel_size=3, padding=1) for channels, boxes in places)
    initialise(layers, "xavier")
    return layers
