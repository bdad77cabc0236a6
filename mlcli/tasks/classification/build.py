"""A classification from its configuration."""

from pathlib import Path
from typing import Any, assert_never

import numpy as np
import torch
from torch import Tensor

from mlcli.data.check.examination import Examination
from mlcli.data.check.examine import examine as examine_data
from mlcli.data.config import ImageFolder, ImageShards
from mlcli.data.fingerprints import of_classes
from mlcli.data.info import DataInfo
from mlcli.data.sources.build import build_source, new_data
from mlcli.engine.membership import KnownData
from mlcli.errors import ConfigError
from mlcli.tasks.classification import config as c
from mlcli.tasks.classification import losses
from mlcli.tasks.classification.task import ClassificationTask, Classifier


def build_task(config: c.Classification, known: KnownData | None = None) -> ClassificationTask:
    """Find the data and make the task. Raises DataError, ConfigError or CheckpointError for what does not fit.

    known: what a run knows of the data, which are divided as it did.
    """
    source = build_source(config.data, known=known)
    labels, setting = source.splits["train"].targets, config.loss.class_weights
    if setting is not None and known and known.members:  # the loss is weighted as it was in training
        hashes = of_classes(np.arange(source.info.num_classes), source.info.class_names)
        trained = known.members.splits["train"].targets
        labels = torch.from_numpy((trained[:, None] == hashes).argmax(axis=1))
    weights = losses.class_weights(setting, labels, source.info.num_classes)
    return ClassificationTask(config, source, build_criterion(config.loss, weights))


def build_predictor(config: c.Classification, facts: dict[str, Any]) -> Classifier:
    """Make what predicts with a saved model, from the facts in its checkpoint; the data are not touched."""
    return Classifier(config.from_scratch(), DataInfo.from_plain(facts["data"]), build_criterion(config.loss).loss)


def on_new_data(config: c.Classification, path: Path, facts: dict[str, Any]) -> c.Classification:
    """Return the configuration with all of new data in place of its own."""
    data = new_data(config.data, path, facts["data"]["target"])
    return config.model_copy(update={"data": data})


def examine(config: c.Classification) -> Examination:
    """Look for everything that is wrong with the data."""
    return examine_data(config.data, regression=False)


def convert(config: c.Classification, to: str, folder: Path, shard_bytes: int | None = None) -> list[str]:
    """Write the pictures to a new folder as shards, divided as training divides them. Returns lines for people.

    Raises ConfigError for another format and for tables, and what reading and writing raise.
    """
    from mlcli.data.sources.shard_writer import SHARD_BYTES, refuse_inside, write_classes

    if to not in ("", "shards"):
        what = "only annotated pictures are converted to that, and this is a classification"
        raise ConfigError(what, where="--to", fix="--to shards")
    if isinstance(config.data, ImageFolder | ImageShards):
        refuse_inside(folder, config.data.root)
    return write_classes(build_source(config.data), folder, shard_bytes or SHARD_BYTES)


def build_criterion(config: c.Loss, class_weights: Tensor | None = None) -> losses.Criterion:
    """Make the loss that a configuration names. class_weights: float32 [C], or None for no weighting."""
    loss: losses.SampleLoss
    match config:
        case c.CrossEntropy(label_smoothing=smoothing):
            loss = losses.CrossEntropyLoss(smoothing)
        case c.Hinge(margin=margin, power=power):
            loss = losses.HingeLoss(margin, power)
        case c.BinaryCrossEntropy(label_smoothing=smoothing):
            loss = losses.BinaryCrossEntropyLoss(smoothing)
        case c.Focal(gamma=gamma):
            loss = losses.FocalLoss(gamma)
        case c.ProbabilityError(name="mse"):
            loss = losses.SquaredDistance()
        case c.ProbabilityError():
            loss = losses.AbsoluteDistance()
        case c.SmoothProbabilityError(beta=beta):
            loss = losses.SmoothDistance(beta)
        case _:
            assert_never(config)
    return losses.Criterion(loss, class_weights)
