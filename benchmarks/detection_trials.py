"""What the measurements of detection_minutes.py share: a training in a given CPU time, its costs and its length."""

import math
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "detection"
FROM_WEIGHTS = " on EfficientNet-Lite0 of ImageNet, frozen"
MODELS = {
    "yolo-anchors": "{name: yolo, head: anchors}",
    "ssd": "{name: ssd}",
    "retinanet": "{name: retinanet}",
    "fcos": "{name: fcos}",
    "faster-rcnn": "{name: faster_rcnn}",
}

EVALUATIONS, THEIR_SHARE = 10, 0.1
"""On the validation split, at most, and the share of the time that they may take."""
CALIBRATION = 0.03
"""Share of the time for which steps are measured beforehand; not counted."""
PICTURES = 50
"""Looked at one by one for the time a picture."""


@dataclass(frozen=True)
class Trial:
    """data: "scenes", "raccoon" or "cells". name: of a shipped config without that of its data, perhaps with
    FROM_WEIGHTS; or of a peer. seconds: of CPU time to train in. overrides: changes to the config."""

    data: str
    name: str
    seconds: float
    seed: int = 0
    overrides: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, float, int]:
        return self.data, self.name, self.seconds, self.seed


@dataclass(frozen=True)
class Costs:
    """CPU seconds: until the first step, of a step, of an evaluation on the validation split; and steps an epoch."""

    start_s: float
    step_s: float
    evaluation_s: float
    steps_per_epoch: int


@dataclass(frozen=True)
class Length:
    epochs: int
    evaluate_every: int


def length(costs: Costs, seconds: float) -> Length:
    """Return as many epochs as fit into some CPU seconds with their evaluations, at least one."""
    epoch_s = costs.steps_per_epoch * costs.step_s
    most = max(1, min(EVALUATIONS, int(THEIR_SHARE * seconds / max(costs.evaluation_s, 1e-9))))
    left_s = seconds - costs.start_s
    epochs = max(1, round(left_s / (epoch_s + costs.evaluation_s)))
    if epochs > most:
        epochs = max(1, round((left_s - most * costs.evaluation_s) / epoch_s))
    return Length(epochs, math.ceil(epochs / most))


def cpu_seconds() -> float:
    """CPU seconds of this process since its start and of its ended children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def repeated(step: Callable[[], object], seconds: float, least: int = 3) -> float:
    """Return the mean CPU seconds of a step, of as many as fit into some seconds; two more before warm up."""
    for _ in range(2):
        step()
    began, steps = cpu_seconds(), 0
    while steps < least or cpu_seconds() - began < seconds:
        step()
        steps += 1
    return (cpu_seconds() - began) / steps


def milliseconds(look: Callable[[torch.Tensor], object], pictures: torch.Tensor) -> float:
    """Return the median CPU milliseconds of a look at one of some pictures, uint8 [N, 3, H, W]."""
    taken = []
    with torch.inference_mode():
        look(pictures[:1])
        for index in range(len(pictures)):
            began = time.process_time()
            look(pictures[index : index + 1])
            taken.append(1000 * (time.process_time() - began))
    return statistics.median(taken)


def experiment(trial: Trial, *more: str) -> Any:
    """The shipped config on one thread, its data in memory, without what only TensorBoard wants to see."""
    from mlcli.experiment import Experiment

    quiet = "train.tensorboard={layers: false, pictures: false, graph: false, embeddings: false}"
    plain = ("train.device=cpu", "train.threads=1", f"train.seed={trial.seed}", "train.measure_train=0",
             "loader.workers=0", "loader.cache=ram", quiet)  # fmt: skip
    name = trial.name.removesuffix(FROM_WEIGHTS)
    path, model = CONFIGS / f"{name}-{trial.data}.yaml", []
    if not path.exists():  # another model on the data of YOLO's config
        path, model = CONFIGS / f"yolo-{trial.data}.yaml", [f"model={MODELS[name]}"]
    return Experiment.load(path, [*plain, *model, *trial.overrides, *more])
