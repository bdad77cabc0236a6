"""What watching a training costs: default settings against a training that writes down as little as it can.

Watched: a log entry every 50 steps, layers, pictures, precision-recall curves and all else that TensorBoard shows, as
by default. Unwatched: the same evaluations and checkpoints, entries only where an evaluation needs one. An MLP on
digits, where a step is short and writing is felt most, and a small VGG on 32x32 noise. Each run has a process of its
own, so that it pays for its imports; alternating order; the runs are compared pair by pair, in time by the clock and in
CPU time, which others on the machine disturb less. Drawing begins once its share of the time allows it, which takes
about a minute: shorter runs show the layers only.

    python benchmarks/tensorboard_cost.py [--seconds 60] [--rounds 5] [--threads 1]
"""

import argparse
import contextlib
import io
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from machine_line import machine_line
from PIL import Image
from rounds import spread, table

CLASSES, IMAGES_EACH = 10, 200
MODELS: dict[str, dict[str, Any]] = {
    "mlp 64-128-10": {"name": "mlp", "hidden": [128]},
    "vgg11 x 0.25": {"name": "vgg", "depth": 11, "width": 0.25},
}
UNWATCHED = {"log_every": 10**9, "tensorboard": {"layers": False, "pictures": False, "graph": False}}


class Outcome(NamedTuple):
    """Of one run.

    seconds, cpu_s: all steps, evaluations and checkpoints. share: of these seconds, what the trainer itself counted as
    watching. once_s: before the first step, the graph and a batch after augmentation.
    """

    seconds: float
    cpu_s: float
    share: float
    once_s: float


def train(model: str, watched: bool, epochs: int, threads: int, images: str) -> Outcome:
    """One run from the first step to the last, in the process it is called in."""
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

    data = {"name": "digits"} if model.startswith("mlp") else {"name": "folder", "root": images}
    settings = {"epochs": epochs, "threads": threads, "device": "cpu", **({} if watched else UNWATCHED)}
    plain = {"task": "classification", "data": data, "model": MODELS[model], "train": settings}
    config = Classification.model_validate(plain | {"optimizer": {"name": "sgd", "lr": 0.01}})
    task, runtime = build_task(config), decide_runtime(config)
    feed = task.feed(runtime)
    select_by = choose_metric(task, None)
    state = TrainingState.start(task, feed, config, runtime, select_by)
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(Path(folder), "cost")
        log, screen = RunLog(run, 0, 0), Screen(feed.steps_per_epoch, "accuracy")
        board, identity = Board(log.tensorboard), {"config": {}, "facts": task.facts, "versions": {}}
        batches, once_s = feed.train_batches(0), 0.0
        first = next(batches)  # files are read before the clock starts
        list(feed.eval_batches("val"))
        if watched:
            began = time.perf_counter()
            board.opening("")
            board.graph(task.model, first.inputs)
            picture = task.batch_picture(first)
            assert picture is not None, "both models learn from images"
            board.pictures("train", {"batch": picture}, 0)
            once_s = time.perf_counter() - began
        t = Training(task, feed, config, runtime, select_by, state, run, log, board, screen, StopRequest(), identity)
        began, cpu_began = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):  # a line an epoch
            fit(t, feed.train_batches(0))
        log.close()
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
        run.unlock()
    feed.close()
    return Outcome(seconds, cpu_s, t.budget.spent_s / seconds, once_s)


def in_own_process(*arguments: Any) -> Outcome:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(train, *arguments).result()


def write_noise(root: Path) -> None:
    """Images of noise as files, in folders of their classes."""
    draw = np.random.default_rng(0)
    for label in range(CLASSES):
        folder = root / f"class{label}"
        folder.mkdir()
        for number, pixels in enumerate(draw.integers(0, 256, (IMAGES_EACH, 32, 32, 3), dtype=np.uint8)):
            Image.fromarray(pixels).save(folder / f"{number}.png")


def compare(model: str, chosen: argparse.Namespace, images: str) -> list[str]:
    """A line of the table: what watching costs one model."""
    epochs = chosen.epochs
    if epochs is None:
        short, shorter = (in_own_process(model, False, some, chosen.threads, images).seconds for some in (4, 2))
        epochs = max(2, round(chosen.seconds / max((short - shorter) / 2, 1e-3)))
    pairs: list[tuple[Outcome, Outcome]] = []
    for turn in range(chosen.rounds):
        order = (True, False) if turn % 2 else (False, True)
        found = {watched: in_own_process(model, watched, epochs, chosen.threads, images) for watched in order}
        pairs.append((found[True], found[False]))
    clock = [100 * (watched.seconds / bare.seconds - 1) for watched, bare in pairs]
    cpu = [100 * (watched.cpu_s / bare.cpu_s - 1) for watched, bare in pairs]
    counted = statistics.median(watched.share for watched, _ in pairs)
    once = statistics.median(watched.once_s for watched, _ in pairs)
    seconds = statistics.median(bare.seconds for _, bare in pairs)
    return [f"{model}, {epochs} epochs", f"{seconds:.1f}", spread(clock, "+.1f"), spread(cpu, "+.1f"),
            f"{counted:.1%}", f"{once:.2f}"]  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=60.0, help="of a run, about")
    arguments.add_argument("--epochs", type=int, help="of a run, instead of as many as take --seconds")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    arguments.add_argument("--threads", type=int, default=1)
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"{machine_line()}; {chosen.rounds} rounds\n", flush=True)
    with tempfile.TemporaryDirectory() as images:
        write_noise(Path(images))
        rows = [compare(model, chosen, images) for model in MODELS if model in chosen.models]
    head = (
        "model",
        "s unwatched",
        "% more by the clock",
        "% more CPU time",
        "counted by the trainer",
        "s once, before",
    )
    print(table(head, rows))


if __name__ == "__main__":
    main()
