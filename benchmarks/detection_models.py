"""Every detector of configs/detection on the scenes: its size, and the images per second it learns from and looks at.

Training is the trainer's own step on the shipped config (batch of 16, augmentation included); looking is evaluation,
from pixels to boxes, also in batches of 16. A round goes through all models, so that a disturbance meets all of them.

    python benchmarks/detection_models.py [--steps 6] [--rounds 3] [--threads 2] [--only yolo ssd]
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from machine_line import machine_line

from mlcli.engine.contract import Batch
from mlcli.engine.meter import Meter
from mlcli.engine.runtime import decide_runtime
from mlcli.experiment import Experiment
from mlcli.machine.bench.learner import Learner
from mlcli.models.layers import count_parameters

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "detection"
BATCH = 16


class Measured:
    """One shipped experiment, ready to be timed again and again."""

    def __init__(self, path: Path, threads: int) -> None:
        experiment = Experiment.load(path, [f"train.threads={threads}", "train.device=cpu"])
        self.runtime = decide_runtime(experiment.config)
        self.task = experiment.build()
        self.feed = self.task.feed(self.runtime)
        self.learner = Learner(self.task, experiment.config, self.runtime, self.feed)
        self.batches = self.feed.train_batches(0)
        self.seen = self._whole_batch()
        self.parameters = count_parameters(self.task.model)[0]
        self.training: list[float] = []
        self.looking: list[float] = []

    def _whole_batch(self) -> Batch:
        batch = next(self.feed.eval_batches("val"))
        return Batch(batch.inputs[:BATCH], batch.targets[:BATCH], batch.indices[:BATCH])

    def measure(self, steps: int) -> None:
        """One round of both; the first step of each only warms up."""
        self.task.train_mode(0)
        self.learner.step(self.batches, Meter())
        began = time.perf_counter()
        images = sum(self.learner.step(self.batches, Meter()) for _ in range(steps))
        self.training.append(images / (time.perf_counter() - began))
        self.task.model.eval()
        with torch.inference_mode(), self.runtime.autocast():
            self.task.evaluate(self.task.model, self.seen)
            began = time.perf_counter()
            for _ in range(steps):
                self.task.evaluate(self.task.model, self.seen)
        self.looking.append(steps * len(self.seen) / (time.perf_counter() - began))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("steps", 6), ("rounds", 3), ("threads", 2)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--only", nargs="*", default=None, help="parts of config names")
    chosen = arguments.parse_args()
    paths = sorted(CONFIGS.glob("*-scenes.yaml"))
    if chosen.only:
        paths = [path for path in paths if any(part in path.stem for part in chosen.only)]
    measured = {path.stem.removesuffix("-scenes"): Measured(path, chosen.threads) for path in paths}
    for _ in range(chosen.rounds):
        for one in measured.values():
            one.measure(chosen.steps)
    print(f"{machine_line()}; median of {chosen.rounds} rounds (smallest to largest)\n")
    print("| config | parameters | training, images/s | looking, images/s |\n|---|---|---|---|")
    for name, one in measured.items():
        print(f"| {name} | {one.parameters:,} | {_spread(one.training)} | {_spread(one.looking)} |")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} - {max(values):.0f})"


if __name__ == "__main__":
    main()
