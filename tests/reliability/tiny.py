"""Tiny real data in files and experiments on them: a whole training takes a fraction of a second."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from mlcli.engine.log import read_metrics
from mlcli.engine.run import RunFolder
from mlcli.engine.trainer import Training
from mlcli.experiment import Experiment
from tests.engine import rig
from tests.engine.rig import TIME_FIELDS

STEPS_PER_EPOCH, EPOCHS = 11, 3
STEPS = STEPS_PER_EPOCH * EPOCHS
"""At least the 32 steps that a resumed run must be stopped at."""
BATCH = 4

LAYOUT = """
optimizer: {name: sgd, lr: 0.02}
train: {epochs: 3, batch_size: 4, accumulate: 2, log_every: 4, device: cpu, threads: 1, baselines: false,
        tensorboard: {graph: false, layers: false, pictures: false}, checkpoints: {every_steps: 5}}
loader: {cache: none, workers: 0}
"""
PHOTOS = """
task: classification
data: {name: folder, root: photos}
augment: [{name: random_crop, padding: 1}, {name: horizontal_flip}, {name: color_jitter}, {name: mixup}]
"""
YAMLS = {
    "mlp": f"{PHOTOS}model: {{name: mlp, hidden: [6], dropout: 0.2}}\n{LAYOUT}",
    "cnn": f"""{PHOTOS}
model:
  name: cnn
  blocks: [{{name: conv, channels: 4, batch_norm: true}}, {{name: pool}}, {{name: dropout, p: 0.2}}]
{LAYOUT}""",
    "detection": f"""
task: detection
data: {{name: box_csv, file: boxes/boxes.csv, image_size: 32}}
augment: [{{name: photometric}}, {{name: affine}}]
model: {{name: yolo, width: 4, strides: [16]}}
{LAYOUT}""",
    "regression": f"""
task: regression
data: {{name: diabetes}}
model: {{name: mlp, hidden: [6], dropout: 0.2}}
{LAYOUT}""",
}


def write_data(folder: Path) -> Path:
    """Photographs of two classes in `photos`, pictures of bright squares in `boxes`, and the YAMLs above."""
    noise = np.random.default_rng(0)
    for split, count in (("train", STEPS_PER_EPOCH * BATCH // 2), ("val", 8), ("test", 2)):
        for name in ("cat", "dog"):
            (folder / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / split / name / f"{number}.png")
    _write_boxes(folder / "boxes", noise)
    for name, text in YAMLS.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def _write_boxes(folder: Path, noise: np.random.Generator) -> None:
    folder.mkdir()
    rows = ["filename,class,xmin,ymin,xmax,ymax,split"]
    for split, count in (("train", STEPS_PER_EPOCH * BATCH), ("val", 20)):
        for number in range(count):
            pixels = noise.integers(30, 80, (32, 32, 3), dtype=np.uint8)
            left, top, side = noise.integers(0, 16), noise.integers(0, 16), 12 + number % 4
            kind = number % 2
            pixels[top : top + side, left : left + side, kind] = 220
            Image.fromarray(pixels).save(folder / f"{split}{number}.png")
            rows.append(f"{split}{number}.png,{'ab'[kind]},{left},{top},{left + side},{top + side},{split}")
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n")


def experiment(data: Path, name: str, *overrides: str) -> Any:
    """The typed config of one of the YAMLs."""
    return Experiment.load(data / f"{name}.yaml", list(overrides)).config


def build(config: Any) -> Any:
    """The task, its first weights always the same."""
    torch.manual_seed(config.train.seed)
    return Experiment(config, "").build()


def session(root: Path, config: Any, *, run: RunFolder | None = None, stop: Any = None) -> tuple[Training, str]:
    """What one process would do for a run: start it below `root`, or go on with `run`, until it ends or is stopped."""
    t, outcome = rig.train(root, build(config), config, run=run, stop=stop)
    t.feed.close()
    return t, outcome


def metrics_without_times(run: RunFolder) -> list[dict]:
    """The lines of metrics.jsonl but for what differs between two runs with the same seed."""
    lines = read_metrics(run.path / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in TIME_FIELDS} for line in lines]


def digest(content: Any) -> str:
    """SHA-256 over tensors and plain values, in whatever they are nested."""
    return rig.fingerprint(SimpleNamespace(state_dict=lambda: content))
