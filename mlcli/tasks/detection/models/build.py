"""Detectors, and what proposes regions to some of them, built from the model section of a config."""

from dataclasses import replace
from functools import cache, partial
from typing import Any, assert_never

import torch

from mlcli.data.info import DataInfo
from mlcli.engine.checkpoint import load_checkpoint, model_weights
from mlcli.engine.run import open_run
from mlcli.errors import CheckpointError, ConfigError
from mlcli.models.build import seeded
from mlcli.models.timm_models import TimmMaps
from mlcli.models.weights import ClassRows, load_saved
from mlcli.tasks.detection.models.backbone import BACKBONE_STRIDES
from mlcli.tasks.detection.models.config import (
    DetectionModel,
    FastRCnn,
    Proposals,
    RCnn,
    Ssd,
    TimmBackbone,
    TorchvisionDetector,
    Yolo,
    without_weights,
)
from mlcli.tasks.detection.models.detector import Detector
from mlcli.tasks.detection.models.proposers import Proposer, RegionNetwork, SelectiveSearch
from mlcli.tasks.detection.models.rcnn import FastRcnnDetector, RcnnDetector
from mlcli.tasks.detection.models.ssd import SsdDetector, load_vgg
from mlcli.tasks.detection.models.torchvision_detectors import (
    FasterRcnnDetector,
    FcosDetector,
    MaskRcnnDetector,
    RetinaNetDetector,
    TorchvisionBase,
    TwoStage,
)
from mlcli.tasks.detection.models.torchvision_nets import ARCHS
from mlcli.tasks.detection.models.yolo import YoloDetector
from mlcli.text import sides

TORCHVISION: dict[str, type[TorchvisionBase]] = {
    kind.kind: kind for kind in (FasterRcnnDetector, MaskRcnnDetector, RetinaNetDetector, FcosDetector)
}


def build(config: DetectionModel, info: DataInfo) -> Detector:
    """Build the detector that a config names for the data in `info`, with the weights it asks for.

    Raises ConfigError for pictures or weights that the model cannot take, DataError if weights can neither be found nor
    downloaded, CheckpointError if a file cannot be read or nothing in it fits.
    """
    _, height, width = info.input_shape
    fields = config.model_dump(exclude={"name", "weights", "proposals", "backbone"})  # keywords of the same names
    keywords: dict[str, Any] = {"image_size": (height, width), "mean": info.mean, "std": info.std, **fields}
    backbone = getattr(config, "backbone", "compact")
    if isinstance(backbone, TimmBackbone):
        maps = TimmMaps(backbone.arch, image_size=(height, width), strides=BACKBONE_STRIDES, weights=backbone.weights)
        return _with_statistics(_made(config, info, keywords | {"backbone": maps}), maps)
    return _made(config, info, keywords | ({"backbone": "vgg16"} if backbone == "vgg16" else {}))


def _with_statistics(detector: Detector, maps: TimmMaps) -> Detector:
    """The detector, standardising pictures as the weights of its backbone expect, and saying what was loaded."""
    if maps.statistics is not None:
        for own, theirs in zip((detector.mean, detector.std), maps.statistics, strict=True):
            own.copy_(torch.tensor(theirs).view(1, 3, 1, 1))
        prefix = next(name for name, module in detector.named_modules() if module is maps) + "."
        loaded = {prefix + name for name, _ in maps.named_parameters()} - {prefix + name for name in maps.unloaded}
        detector.unloaded = frozenset(name for name, _ in detector.named_parameters() if name not in loaded)
        detector.notes = maps.notes
        if isinstance(detector, TorchvisionBase):
            detector.net.notes = maps.notes  # these are what `FineTuning` reads
    return detector


def _made(config: DetectionModel, info: DataInfo, keywords: dict[str, Any]) -> Detector:
    match config:
        case Yolo():
            return YoloDetector(info.num_classes, anchors_wh=info.preparation.get("anchors_wh"), **keywords)
        case Ssd():
            ssd = SsdDetector(info.num_classes, **keywords)
            if config.weights != "none":
                load_vgg(ssd, config.weights, batch_norm=config.batch_norm)
            return ssd
        case RCnn() | FastRCnn():
            kind = RcnnDetector if isinstance(config, RCnn) else FastRcnnDetector
            built = cache(partial(build_proposer, config.proposals, info))  # at the first pictures without regions
            propose = None if config.proposals.method == "sliding" else lambda images: built()(images)
            return kind(info.num_classes, most=config.proposals.most, propose=propose, **keywords)
        case TorchvisionDetector(arch=arch, weights=weights):
            if arch is None and weights != "none":
                raise ConfigError(
                    f"weights '{weights}' need an arch of torchvision's; the compact backbone has none",
                    where="model.weights",
                    fix=f"set model.arch to {ARCHS[config.name][0]}, or give your own weights as finetune.weights",
                )
            detector = TORCHVISION[config.name](info.num_classes, **keywords)
            if weights != "none":
                detector.load(weights, info.class_names)
            return detector
        case _:
            assert_never(config)


def class_rows(config: DetectionModel, info: DataInfo) -> ClassRows:
    """Return where a detector's parameters have each class: they would have so many rows more with a class more."""
    with seeded(0):
        own, other = (
            {name: parameter.shape for name, parameter in build(config, facts).named_parameters()}
            for facts in (info, replace(info, class_names=(*info.class_names, "one more")))
        )
    each = {name: other[name][0] - shape[0] for name, shape in own.items() if shape != other[name]}
    return ClassRows(info.class_names, each, {name for name in each if "bbox_pred" in name})


def describe(config: DetectionModel) -> str:
    """Return what a person knows the model by: `yolo free width 16`, `rcnn, proposals sliding`."""
    if isinstance(backbone := getattr(config, "backbone", None), TimmBackbone):
        return f"{config.name} on timm {backbone.arch}, weights {backbone.weights}"
    match config:
        case Yolo():
            return f"yolo {config.head} width {config.width}"
        case Ssd(backbone="vgg16"):
            return "ssd vgg16"
        case RCnn() | FastRCnn():
            return f"{config.name}, proposals {config.proposals.method}"
        case TorchvisionDetector(arch=str(arch)):
            return f"{config.name} {arch}, weights {config.weights}"
        case Ssd() | TorchvisionDetector():
            return f"{config.name} compact width {config.width}"
        case _:
            assert_never(config)


def build_proposer(config: Proposals, info: DataInfo) -> Proposer:
    """Build the method that a config names, other than sliding windows, for inputs of the shape in `info`.

    Raises ConfigError if selective search is not installed or the run does not fit, CheckpointError if it holds no
    trained network.
    """
    if config.method == "selective_search":
        return SelectiveSearch(config.most)
    assert config.run is not None
    path = open_run(config.run).checkpoint("best")
    saved = load_checkpoint(path)
    model = saved["config"].get("model", {})
    if model.get("name") not in ("faster_rcnn", "mask_rcnn"):
        raise CheckpointError(
            f"a run of {model.get('name')} has no region proposal network",
            where=str(path),
            fix="give model.proposals.run the folder of a faster_rcnn run",
        )
    learned = DataInfo.from_plain(saved["facts"]["data"])
    for what, here, there in (
        ("image_size", info.input_shape[1:], learned.input_shape[1:]),
        ("fit", info.preparation.get("fit"), learned.preparation.get("fit")),
    ):
        if here != there:
            raise ConfigError(
                f"the region proposal network has learned from pictures of data.{what} {_plain(there)}, "
                f"these have {_plain(here)}",
                where="model.proposals.run",
                fix=f"set data.{what} to {_plain(there)}, or train another faster_rcnn",
            )
    detector = build(without_weights(TorchvisionDetector.model_validate(model)), learned)  # its own follow
    assert isinstance(detector, TwoStage)
    load_saved(detector, model_weights(saved), path)
    return RegionNetwork(detector, config.most)


def _plain(value: Any) -> str:
    return sides(value) if isinstance(value, tuple) else str(value)
