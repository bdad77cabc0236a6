"""Which layout and precision the shipped models learn fastest in on a CPU: what `auto` takes, and what it leaves.

The trainer's own step on the shipped configs, batches made beforehand; every round goes through all forms of a model.
Ratios above 1 are faster than channels_first in fp32.

    python benchmarks/layout.py [--steps 4] [--rounds 5] [--threads 2] [--only vgg-cifar10 yolo-scenes] [--compile]
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from machine_line import machine_line
from PIL import Image
from rounds import alternate, table

from mlcli.engine.contract import Batch
from mlcli.engine.meter import Meter
from mlcli.engine.runtime import decide_runtime
from mlcli.experiment import Experiment
from mlcli.machine.bench.learner import Learner

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
MODELS = ("mlp-digits", "cnn-digits", "cnn-cifar10", "vgg-cifar10", "resnet-cifar10", "yolo-scenes", "ssd-scenes",
          "retinanet-scenes", "faster-rcnn-scenes")  # fmt: skip
FORMS = {
    "channels_first": {},
    "channels_last": {"channels_last": "true"},
    "bf16": {"precision": "bf16"},
    "channels_last, bf16": {"channels_last": "true", "precision": "bf16"},
    "compiled": {"compile": "true"},
    "channels_last, bf16, compiled": {"channels_last": "true", "precision": "bf16", "compile": "true"},
}
PLAIN = {"channels_last": "false", "precision": "fp32", "compile": "false", "device": "cpu", "batch_size": "32"}


def pixels_of(name: str, folder: Path) -> list[str]:
    """Overrides with which data that would have to be downloaded are random pixels of the same size."""
    if not name.endswith("cifar10"):
        return []
    if not folder.exists():
        random = np.random.default_rng(0)
        for number in range(320):
            path = folder / "train" / str(number % 10) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return [f"data={{name: folder, root: {folder}}}"]


def step_of(name: str, form: dict[str, str], overrides: list[str], threads: int) -> Callable[[int], float]:
    """Takes so many steps and returns the images learned from in a second."""
    path = next(CONFIGS.glob(f"*/{name}.yaml"))
    train = [f"train.{key}={value}" for key, value in {**PLAIN, **form, "threads": threads}.items()]
    experiment = Experiment.load(path, [*overrides, *train])
    runtime = decide_runtime(experiment.config)
    task = experiment.build()
    feed = task.feed(runtime)
    learner = Learner(task, experiment.config, runtime, feed)
    batches: list[Batch] = list(itertools.islice(feed.train_batches(0), 2))
    feed.close()
    task.train_mode(0)
    endless = itertools.cycle(batches)
    for _ in range(2):  # memory, and what is compiled
        learner.step(endless, Meter())

    def take(steps: int) -> float:
        torch.set_float32_matmul_precision("highest" if runtime.precision == "fp32" else "high")
        began = time.perf_counter()
        images = sum(learner.step(endless, Meter()) for _ in range(steps))
        return images / (time.perf_counter() - began)

    return take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--compile", action="store_true", help="and torch.compile, which takes half a minute a model")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine_line())
    forms = {name: form for name, form in FORMS.items() if args.compile or "compile" not in form}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            overrides = pixels_of(name, Path(folder) / "pixels")
            takes = {label: step_of(name, form, overrides, args.threads) for label, form in forms.items()}
            found = alternate({label: partial(take, args.steps) for label, take in takes.items()}, args.rounds)
            rows.append([name, *ratios(found)])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)  # the table comes once all are measured
    print()
    print(table(["images/s, batches of 32", "channels_first", *list(forms)[1:]], rows))


def ratios(found: dict[str, list[float]]) -> list[str]:
    """The first's images per second, and for the others the median of the ratios to it within a round."""
    first, *others = found.values()
    shown = [f"{statistics.median(first):,.0f}"]
    for rates in others:
        ratio = [rate / reference for rate, reference in zip(rates, first, strict=True)]
        shown.append(f"{statistics.median(ratio):.2f} ({min(ratio):.2f} - {max(ratio):.2f})")
    return shown


if __name__ == "__main__":
    main()
