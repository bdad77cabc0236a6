"""Data and models that are slow by a known amount: they sleep, which takes no core from anybody."""

import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor, nn

from mlcli.data.source import ImageFilesSamples, Source
from mlcli.experiment import Experiment
from mlcli.tasks.classification.config import Classification
from mlcli.tasks.classification.task import ClassificationTask

SIDE, BATCH = 8, 8


@dataclass(frozen=True, eq=False)
class SlowFiles(ImageFilesSamples):
    """Image files on a disk that takes its time."""

    sleep_s: float = 0.0

    def read(self, indices: np.ndarray) -> Tensor:
        time.sleep(self.sleep_s * len(indices))
        return super().read(indices)


class SlowModel(nn.Module):
    """A model that takes at least so long for a batch."""

    def __init__(self, model: nn.Module, sleep_s: float) -> None:
        super().__init__()
        self.model, self.sleep_s = model, sleep_s

    def forward(self, inputs: Tensor) -> Tensor:
        time.sleep(self.sleep_s)
        return self.model(inputs)


def write_images(root: Path, per_class: int = 240) -> Path:
    """Two classes of small JPEGs, to be split."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, per_class, SIDE, SIDE, 3), dtype=np.uint8)
    for name, images in zip(("left", "right"), pixels, strict=True):
        (root / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(root / name / f"{number:03d}.jpg")
    return root


def config_of(root: Path, *, epochs: int = 1, **loader) -> Classification:
    return Classification.model_validate(
        {
            "task": "classification",
            "data": {"name": "folder", "root": str(root), "image_size": SIDE},
            "model": {"name": "linear"},
            "train": {"batch_size": BATCH, "epochs": epochs, "device": "cpu", "threads": 1, "log_every": 20},
            "loader": {"cache": "none", "workers": 2, **loader},  # a measured number would follow the clock
        },
        context={"base": root},
    )


def slow_task(config: Classification, *, image_s: float = 0.0, batch_s: float = 0.0) -> ClassificationTask:
    """A task whose files take `image_s` each and whose model takes `batch_s` a batch."""
    task = Experiment(config, "").build()
    slow = {split: _slow(samples, image_s) for split, samples in task.source.splits.items()}
    task.source = Source(task.source.info, slow)
    task.model = SlowModel(task.model, batch_s)
    return task


def _slow(samples, sleep_s: float) -> SlowFiles:
    return SlowFiles(**{f.name: getattr(samples, f.name) for f in fields(samples)}, sleep_s=sleep_s)
