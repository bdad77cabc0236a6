"""What a trainer costs beyond a loop written by hand, a step: mlcli and other trainers, bare and watched.

All train the same model with SGD on the same batches, taken from memory by index: an MLP 64-128-10 with batches of 64
by default, where a step is short and overhead is felt most, or a small VGG with batches of 128. Watched: a progress bar
and the loss in TensorBoard every 50 steps; mlcli once more with all else that it shows by default. The clock runs from
one of the first batches being asked for to the last one, so neither starting nor ending counts. Each trainer lives in a
process of its own; they take turns in alternating order. Those not installed (`pip install -e ".[peers]"`) are named.

    python benchmarks/trainer_overhead.py [--model mlp] [--steps 1000] [--rounds 7] [--threads 1] [--only mlcli]
"""

import argparse
import contextlib
import io
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from machine_line import machine_line
from PIL import Image
from rounds import alternate, spread, table
from trainer_peers import LOG_EVERY, PEERS, Batches, Job, by_hand, missing

from mlcli.data.source import Arrays, Source
from mlcli.engine.board import Board
from mlcli.engine.evaluate import choose_metric
from mlcli.engine.log import RunLog, Screen
from mlcli.engine.run import create_run
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.state import TrainingState
from mlcli.engine.stop import StopRequest
from mlcli.engine.trainer import Training, fit
from mlcli.tasks.classification.build import build_task
from mlcli.tasks.classification.config import Classification
from mlcli.tasks.classification.task import ClassificationTask

WARM_UP = 10
"""Steps before the clock starts."""
NEVER = 10**9
UNSEEN: dict[str, Any] = {"layers": False, "pictures": False, "graph": False}
MODELS: dict[str, tuple[dict[str, Any], int]] = {  # and the batch size
    "mlp": ({"name": "mlp", "hidden": [128]}, 64),
    "vgg": ({"name": "vgg", "depth": 11, "width": 0.25}, 128),
}
LR = 0.01
KINDS = ("bare", "watched", "defaults")
BY_HAND, MLCLI = "by hand", "mlcli"

Item = TypeVar("Item")


class Clock:
    """Times the steps between the batches handed out."""

    def __init__(self, steps: int) -> None:
        self.last, self.began, self.ended = steps - 1, 0.0, 0.0

    def over(self, batches: Iterable[Item]) -> Iterator[Item]:
        for number, batch in enumerate(batches):
            if number == WARM_UP:
                self.began = time.perf_counter()
            if number == self.last:
                self.ended = time.perf_counter()
            yield batch

    @property
    def us_per_step(self) -> float:
        return (self.ended - self.began) / (self.last - WARM_UP) * 1e6


class Terminal(io.TextIOWrapper):
    """Takes everything and shows nothing; progress bars are drawn as they are for people."""

    def isatty(self) -> bool:
        return True


def experiment(model: str, kind: str, threads: int, noise: str) -> Classification:
    settings = {"epochs": 1, "batch_size": MODELS[model][1], "threads": threads, "device": "cpu"}
    settings |= {"precision": "fp32", "channels_last": False}  # the arithmetic of the loop by hand and of the others
    settings |= {"log_every": NEVER if kind == "bare" else LOG_EVERY}
    settings |= {"tensorboard": UNSEEN} if kind != "defaults" else {}
    data = {"name": "digits"} if model == "mlp" else {"name": "folder", "root": noise}
    optimizer = {"name": "sgd", "lr": LR, "momentum": 0.9}
    plain = {"task": "classification", "data": data, "model": MODELS[model][0]}
    return Classification.model_validate(plain | {"optimizer": optimizer, "train": settings})


def repeated(task: ClassificationTask, count: int) -> Source:
    """The task's data with so many training samples, so that one epoch is enough."""
    train = task.source.splits["train"]
    rows = np.resize(np.arange(len(train)), count)
    inputs, targets = train.read(np.arange(len(train))), train.targets  # [N, ...]
    more = Arrays(inputs[torch.from_numpy(rows)], targets[torch.from_numpy(rows)], "repeated")
    return Source(task.source.info, {**task.source.splits, "train": more})


def with_mlcli(task: ClassificationTask, config: Classification, source: Source, clock: Clock, folder: str) -> None:
    runtime = decide_runtime(config)
    task.source = source
    feed = task.feed(runtime)
    select_by = choose_metric(task, None)
    state = TrainingState.start(task, feed, config, runtime, select_by)
    run = create_run(Path(folder), "overhead")
    log = RunLog(run, 0, 0)
    board, screen = Board(log.tensorboard), Screen(feed.steps_per_epoch, select_by.metric)
    identity = {"config": {}, "facts": task.facts, "versions": {}}
    t = Training(task, feed, config, runtime, select_by, state, run, log, board, screen, StopRequest(), identity)
    fit(t, clock.over(feed.train_batches(0)))
    log.close()
    run.unlock()


def us_per_step(name: str, kind: str, model: str, steps: int, threads: int, noise: str) -> float:
    """Microseconds a step of one trainer, in the process it is called in."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    config, clock = experiment(model, kind, threads, noise), Clock(steps)
    task = build_task(config)
    size = MODELS[model][1]
    source = repeated(task, steps * size)
    train = source.splits["train"]
    assert isinstance(train, Arrays)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(train)).split(size)
        return clock.over((train.inputs.index_select(0, rows), train.targets.index_select(0, rows)) for rows in order)

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "wb") as nowhere, Terminal(nowhere) as terminal:
        stderr = terminal if kind != "bare" else sys.stderr
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(terminal):
            if name == MLCLI:
                with_mlcli(task, config, source, clock, folder)
            else:
                loop = by_hand if name == BY_HAND else PEERS[name][1]
                loop(Job(task.model, Batches(batches, steps), LR, kind != "bare", folder))
    return clock.us_per_step


def write_noise(root: Path, per_class: int = 40) -> None:
    """Images of noise as files, in folders of their classes."""
    draw = np.random.default_rng(0)
    for label in range(10):
        (root / f"class{label}").mkdir(parents=True)
        for number, pixels in enumerate(draw.integers(0, 256, (per_class, 32, 32, 3), dtype=np.uint8)):
            Image.fromarray(pixels).save(root / f"class{label}" / f"{number}.png")


def show(found: dict[tuple[str, str], list[float]], names: list[str]) -> None:
    """The table: us a step, and beyond the bare loop by hand of the same round."""
    hand = found[BY_HAND, "bare"]
    rows = []
    for name in names:
        for kind in KINDS:
            if (name, kind) in found:
                values = found[name, kind]
                extra = [value - bare for value, bare in zip(values, hand, strict=True)]
                ratio = statistics.median(value / bare for value, bare in zip(values, hand, strict=True))
                rows.append([f"{name}, {kind}", spread(values), spread(extra), f"{ratio:.3f}"])
    print(table(("trainer", "us a step", "us beyond the bare loop by hand", "ratio"), rows))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", choices=MODELS, default="mlp")
    arguments.add_argument("--steps", type=int, default=1000)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--only", nargs="*", help="trainers besides the loop by hand; all unless given")
    chosen = arguments.parse_args()
    wanted = [name for name in (MLCLI, *PEERS) if not chosen.only or name in chosen.only]
    absent = [name for name in wanted if name != MLCLI and missing(PEERS[name][0])]
    unfit = ["keras, torch backend"] if chosen.model != "mlp" and "keras, torch backend" in wanted else []
    names = [BY_HAND, *(name for name in wanted if name not in absent + unfit)]
    print(f"{machine_line()}; {chosen.model}, {chosen.steps} steps, {chosen.rounds} rounds, {chosen.threads} threads\n")
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        noise = stack.enter_context(tempfile.TemporaryDirectory())
        write_noise(Path(noise))
        spawn = multiprocessing.get_context("spawn")
        homes = {name: stack.enter_context(ProcessPoolExecutor(1, spawn)) for name in names}

        def measure(name: str, kind: str, steps: int) -> float:
            return homes[name].submit(us_per_step, name, kind, chosen.model, steps, chosen.threads, noise).result()

        pairs = [(name, kind) for name in names for kind in KINDS if kind != "defaults" or name == MLCLI]
        for name, kind in pairs:  # once unmeasured: imports
            measure(name, kind, WARM_UP + 2)
        found = alternate({pair: partial(measure, *pair, chosen.steps) for pair in pairs}, chosen.rounds)
    show(found, names)
    for name in absent:
        print(f"\nNot installed, so not measured: {name}")
    for name in unfit:
        print(f"\n{name} has no such model here, so it is not measured")


if __name__ == "__main__":
    main()
