"""Step 1, sets of functions that find objects: the detectors a YAML can name. No torch in here.

All of them train from scratch with the compact backbone; build.py makes the detectors.
"""

from functools import partial
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from mlcli.models.config import Weights, no_word_misspelt
from mlcli.schema import ConfigPath, Strict

Share = Annotated[float, Field(ge=0, le=1)]
Gain = Annotated[float, Field(ge=0)]
Word = Literal["none", "imagenet", "coco"]
TorchvisionWeights = Word | Annotated[ConfigPath, AfterValidator(partial(no_word_misspelt, get_args(Word)))]


class DetectorBase(Strict):
    """Limits that all detectors share."""

    score_threshold: Share = 0.01
    """Detections less certain than this are dropped before suppression; low, so that the whole curve is measured."""
    nms_iou: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Of two boxes of one class that overlap by more than this, the less certain is dropped."""
    max_detections: PositiveInt = 100
    """Most detections kept of one picture."""

    one_shape: ClassVar[str] = ""
    """Why all inputs must have one shape, so that there can be no rectangular batches; empty if they need not."""

    @property
    def learns_masks(self) -> bool:
        """Whether the data must have masks."""
        return False


class TimmBackbone(Strict):
    """A classifier of timm (pip install mlcli[timm]) in place of the compact backbone; the neck stays.

    With weights, pictures are standardised as these expect, whatever data.normalize says.
    """

    name: Literal["timm"]
    arch: str
    """A model of timm with maps of strides 4, 8, 16 and 32, such as mobilenetv3_small_100; most transformers have
    none."""
    weights: Weights = "none"
    """none: from scratch; default: timm's own (network or its cache needed); or a .safetensors or .pth file."""


Backbone = Literal["compact"] | TimmBackbone


class Compact(DetectorBase):
    """Detectors on the compact backbone: a small residual network of strides 2 to 32 (backbone.py)."""

    width: Annotated[int, Field(ge=4, le=128)] = 16
    """Channels at stride 2; twice as many at each further stride. 16 makes about a million parameters."""


class Pyramid(Compact):
    """Detectors on maps of several strides, whose backbone can be another. The neck has 4 times `width` channels."""

    backbone: Backbone = "compact"
    """The compact one, or one of timm: {name: timm, arch: mobilenetv3_small_100, weights: default}."""


class CompactSingleShot(Pyramid):
    """Detectors with suppression of this project; the others leave it to torchvision, which has only the hard one."""

    nms: Literal["hard", "soft", "diou"] = "hard"
    """Of detections of one class that overlap: hard drops the less certain above nms_iou; diou does so by DIoU, which
    spares boxes with other centres (Zheng et al. 2020); soft lowers their scores by exp(-IoU² / 0.5) instead (Bodla et
    al. 2017) and does not use nms_iou."""


class Yolo(CompactSingleShot):
    """You only look once, written from the papers (Redmon & Farhadi 2018; Ge et al. 2021; Feng et al. 2021)."""

    name: Literal["yolo"]
    head: Literal["free", "anchors"] = "free"
    """free: one prediction a cell, assigned by how well it does (task alignment); anchors: YOLOv3's, by best anchor."""
    strides: Annotated[tuple[Literal[4, 8, 16, 32], ...], Field(min_length=1)] = (8, 16, 32)
    """Strides of the maps that predict, in pixels."""
    anchors_per_stride: Annotated[int, Field(ge=1, le=100)] = 3
    """Anchors a cell, fitted to the training boxes by k-means; for head: anchors only."""
    box_loss: Literal["iou", "giou", "diou", "ciou"] = "ciou"
    """Distance between boxes that is learned from."""
    box_gain: Gain = 7.5
    """Factor on the term `box`; this and the next two are for head: free only."""
    class_gain: Gain = 0.5
    """Factor on the term `class`."""
    distribution_gain: Gain = 1.5
    """Factor on the term `distribution`, the distribution focal loss (Li et al. 2020); 0 for none."""

    @model_validator(mode="after")
    def strides_double(self):
        if any(coarse != 2 * fine for fine, coarse in pairwise(self.strides)):
            raise ValueError(f"strides {list(self.strides)} must each be twice the one before, such as [8, 16, 32]")
        return self


class Ssd(CompactSingleShot):
    """Single shot multibox detector (Liu et al. 2016, arXiv:1512.02325)."""

    one_shape = "default boxes are shares of"

    name: Literal["ssd"]
    backbone: Literal["vgg16"] | Backbone = "compact"  # type: ignore[assignment]  # more than in the base class
    """The compact one, the paper's VGG-16 (24 million parameters), or one of timm as a section of its own."""
    batch_norm: bool = True
    """For vgg16: batch normalisation, which makes it trainable from scratch; false for the paper's, as for COCO."""
    weights: TorchvisionWeights = "none"
    """For vgg16: none; torchvision's for ImageNet or COCO (network or its cache needed); or a file."""
    negatives: PositiveFloat = 3.0
    """Background boxes learned from for each object, the hardest first (section 2.2)."""
    scales: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.1, 0.9)
    """Sides of the default boxes of the finest and of the coarsest map, as shares of the picture's; between them as the
    maps between. The closer to the objects' sizes, the sooner it learns. Not for vgg16, which has the paper's."""

    @model_validator(mode="after")
    def scales_rise(self):
        if self.scales[0] >= self.scales[1]:
            raise ValueError(f"scales {list(self.scales)} must rise: the finest map looks for the smallest objects")
        if self.backbone == "vgg16" and self.scales != Ssd.model_fields["scales"].default:
            raise ValueError("scales are for other backbones than vgg16, whose default boxes are the paper's")
        return self

    @model_validator(mode="after")
    def weights_fit(self):
        if self.weights != "none" and self.backbone != "vgg16":
            name = getattr(self.backbone, "name", self.backbone)
            raise ValueError(f"weights '{self.weights}' are for backbone vgg16, not for {name}")
        if self.weights == "coco" and self.batch_norm:
            raise ValueError("weights 'coco' are of VGG-16 without batch normalisation; set batch_norm to false")
        return self


class Proposals(Strict):
    """Region proposals of R-CNN and Fast R-CNN."""

    method: Literal["sliding", "selective_search", "rpn"] = "sliding"
    """sliding windows of several sizes; selective search (Uijlings et al. 2013; needs mlcli[proposals]); or what the
    region proposal network of a trained faster_rcnn run proposes (step 2 of the 4-step training, Ren et al. 2015)."""
    run: ConfigPath | None = None
    """For rpn: the run's folder."""
    most: Annotated[int, Field(ge=1, le=100_000)] = 300
    """Proposals kept of one picture. Sliding windows leave fewer gaps the more they are: about 1000 find most objects
    larger than a tenth of the picture."""
    cache: ConfigPath | None = None
    """File (.npz) that computed proposals are kept in; null for one in the user's folder of caches."""

    @model_validator(mode="after")
    def rpn_comes_from_a_run(self):
        if (self.method == "rpn") != (self.run is not None):
            raise ValueError("method rpn and a run belong together: the run has trained the region proposal network")
        return self


class FromProposals(DetectorBase):
    """Detectors that look at regions proposed beforehand, for whole pictures."""

    one_shape = "regions are proposed in"

    proposals: Proposals = Proposals()


class RCnn(FromProposals):
    """Regions with CNN features: each proposal cut out, warped, and shown to a small CNN (Girshick et al. 2014)."""

    name: Literal["rcnn"]
    crop: Annotated[int, Field(ge=16, le=224)] = 48
    """Side in pixels that each proposal is warped to."""
    context: Share = 0.15
    """By how much of its sides a proposal is widened before it is cut out, half at each end; 0.16 in the paper."""
    width: Annotated[int, Field(ge=4, le=128)] = 16
    """Channels of the CNN's first layer."""


class FastRCnn(FromProposals, Compact):
    """The picture through the CNN once, each proposal pooled from its map (Girshick 2015, arXiv:1504.08083)."""

    name: Literal["fast_rcnn"]
    roi: Literal["pool", "align"] = "pool"
    """RoI pooling as in the paper, or RoIAlign (He et al. 2017)."""


class TorchvisionDetector(Pyramid):
    """Detectors whose parts come from torchvision, on the compact backbone or on torchvision's own."""

    name: Literal["faster_rcnn", "mask_rcnn", "retinanet", "fcos"]
    """Ren et al. 2015; He et al. 2017 (needs masks); Lin et al. 2017; Tian et al. 2019."""
    arch: str | None = None
    """A builder of torchvision.models.detection, such as fasterrcnn_resnet50_fpn; null for the compact backbone."""
    weights: TorchvisionWeights = "none"
    """For arch: none; torchvision's weights for the backbone or for all (network or its cache needed); or a file."""

    @property
    def learns_masks(self) -> bool:
        return self.name == "mask_rcnn"

    @model_validator(mode="after")
    def one_backbone(self):
        if self.arch is not None and self.backbone != "compact":
            raise ValueError(f"arch '{self.arch}' has a backbone of its own; leave out arch or backbone")
        return self


DetectionModel = Annotated[Yolo | Ssd | RCnn | FastRCnn | TorchvisionDetector, Field(discriminator="name")]


def without_weights(model: DetectionModel) -> DetectionModel:
    """Return the same model without weights learned elsewhere."""
    changes: dict[str, object] = {}
    if getattr(model, "weights", "none") != "none":
        changes["weights"] = "none"
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, TimmBackbone):
        changes["backbone"] = backbone.model_copy(update={"weights": "none"})
    return model.model_copy(update=changes)
