"""A detection from its configuration."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mlcli.data.check.examination import Examination
from mlcli.data.info import DataInfo
from mlcli.engine.membership import KnownData
from mlcli.errors import ConfigError
from mlcli.tasks.detection.config import Detection
from mlcli.tasks.detection.data.augment.random_tile import learned_sides
from mlcli.tasks.detection.data.augmentations import DetectionAugmentation
from mlcli.tasks.detection.data.build import build_source, new_data
from mlcli.tasks.detection.data.config import STRIDES, Scenes, side_unit
from mlcli.tasks.detection.data.records import DetectionSource
from mlcli.tasks.detection.data.strides import USUAL_STRIDES
from mlcli.tasks.detection.models.anchors import kmeans_anchors
from mlcli.tasks.detection.models.config import FromProposals, Yolo
from mlcli.tasks.detection.predictor import ObjectDetector
from mlcli.tasks.detection.task import DetectionTask


def build_task(config: Detection, known: KnownData | None = None) -> DetectionTask:
    """Find the data, and what the model needs to know of them beforehand, and make the task.

    known: what a run knows of the data, which are divided as it did.
    Raises DataError, ConfigError or CheckpointError for what does not fit.
    """
    source, notes, model = build_source(config.data, known), list[str](), config.model
    if isinstance(model, Yolo) and model.head == "anchors":
        source, notes = with_anchors(source, model.anchors_per_stride * len(model.strides), config.augment)
    elif isinstance(model, FromProposals):
        from mlcli.tasks.detection.models.proposals import with_proposals

        source, notes = with_proposals(source, model.proposals)
    return DetectionTask(config, source, notes)


def build_predictor(config: Detection, facts: dict[str, Any]) -> ObjectDetector:
    """Make what predicts with a saved model, from the facts in its checkpoint; the data are not touched."""
    predictor = ObjectDetector(config.from_scratch(), DataInfo.from_plain(facts["data"]))
    predictor.adopt(facts)
    return predictor


def on_new_data(config: Detection, path: Path, facts: dict[str, Any]) -> Detection:
    """Return the configuration with all of new data in place of its own."""
    return config.model_copy(update={"data": new_data(config.data, path)})


def at_size(
    config: Detection, facts: dict[str, Any], side: int, with_data: bool = False
) -> tuple[Detection, dict[str, Any]]:
    """Return the configuration and the facts of a checkpoint for inputs of the same shape and another size.

    Raises ConfigError unless both sides are multiples of the coarsest stride, or if the data are drawn at their size.
    """
    _, *trained = facts["data"]["input_shape"]
    unit = side_unit(trained)
    if side <= 0 or side % unit:
        near = sorted({max(unit, side // unit * unit), max(unit, -(-side // unit) * unit)})
        what = f"{side} pixels do not fit: both sides have to be multiples of {STRIDES[-1]}, the coarsest stride"
        raise ConfigError(what, where="--size", fix=" or ".join(f"--size {length}" for length in near))
    if with_data and isinstance(config.data, Scenes):
        what = "these data are drawn at the size of the input: at another they are other pictures"
        raise ConfigError(what, where="--size", fix="--on DATA measures all of other data")
    size = [length * side // max(trained) for length in trained]
    data = {**facts["data"], "input_shape": [facts["data"]["input_shape"][0], *size]}
    data["preparation"] = {**data["preparation"], "image_size": size}
    changed = config.data.model_copy(update={"image_size": tuple(size)})
    return config.model_copy(update={"data": changed}), {**facts, "data": data}


def examine(config: Detection) -> Examination:
    """Look for everything that is wrong with the data."""
    from mlcli.tasks.detection.data.check import examine

    strides = getattr(config.model, "strides", USUAL_STRIDES)
    return examine(config.data, strides, config.augment, config.min_visibility)


def convert(config: Detection, to: str, folder: Path, shard_bytes: int | None = None) -> list[str]:
    """Write the data to a new folder in another format. Returns lines for people. Raises UserError."""
    from mlcli.tasks.detection.data.annotations.convert import convert

    return convert(config.data, to or ("shards" if shard_bytes else "coco"), folder, shard_bytes)


def with_anchors(
    source: DetectionSource, count: int, augment: Sequence[DetectionAugmentation] = ()
) -> tuple[DetectionSource, list[str]]:
    """Fit anchors to the training boxes (YOLOv2, Redmon & Farhadi 2017, section 2, "Dimension clusters").

    Returns the source with "anchors_wh" among its facts, and lines for people.
    """
    records = source.splits["train"]
    anchors_wh, mean_iou, recall = kmeans_anchors(torch.from_numpy(learned_sides(augment, records)), count)
    plain = [[round(side, 2) for side in anchor] for anchor in anchors_wh.tolist()]
    info = replace(source.info, preparation={**source.info.preparation, "anchors_wh": plain})
    text = f"{count} anchors fitted to the boxes: mean IoU {mean_iou:.2f}, {recall:.1%} of boxes overlapped by half"
    return replace(source, info=info), [text]
