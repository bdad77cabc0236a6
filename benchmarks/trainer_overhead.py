"""What the shared trainer costs beyond a loop written by hand: an MLP 64-128-10, batch 64, SGD, data in memory.

Both train the same model from the same seed on the same batches, taken from one tensor by index; the trainer logs to
metrics.jsonl and TensorBoard every 50 steps and the hand loop prints nothing. Alternating order, one warm-up each.

    python benchmarks/trainer_overhead.py [--steps 2000] [--rounds 7] [--threads 1]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from machine_line import machine_line
from torch import Tensor
from torch.nn import functional

from mlcli.data.config import Digits
from mlcli.engine.best import choose_watch
from mlcli.engine.board import Board
from mlcli.engine.log import RunLog, Screen
from mlcli.engine.run import create_run
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.state import TrainingState
from mlcli.engine.stop import StopRequest
from mlcli.engine.trainer import Training, fit
from mlcli.tasks.classification.config import Classification
from mlcli.tasks.classification.task import ClassificationTask


def experiment(steps: int, threads: int) -> Classification:
    """One epoch of digits has 18 steps of 64; evaluation only after the last."""
    epochs = steps // 18
    train = {"epochs": epochs, "batch_size": 64, "threads": threads, "device": "cpu"}
    train |= {"evaluate_every": epochs, "checkpoints": {"every_epochs": epochs}}
    model, data = {"name": "mlp", "hidden": [128]}, {"name": "digits"}
    return Classification.model_validate({"task": "classification", "data": data, "model": model, "train": train})


def with_trainer(config: Classification) -> float:
    """Microseconds a step of `fit`, without its start and without the evaluation and save at its end."""
    task, runtime = ClassificationTask(config), decide_runtime(config.train)
    feed = task.feed(runtime)
    watch = choose_watch(None, task.primary, task.metrics().directions, has_val=True)
    state = TrainingState.start(task, feed, config, runtime, watch)
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(Path(folder), "overhead")
        log, stop = RunLog(run, 0, 0), StopAtLastStep(state, feed.steps_per_epoch * config.train.epochs)
        identity = {"config": {}, "facts": task.facts, "versions": {}}
        board, screen = Board(log.tensorboard), Screen(18, "accuracy")
        t = Training(task, feed, config, runtime, watch, state, run, log, board, screen, stop, identity)
        batches = feed.train_batches(0)
        stop.began = time.perf_counter()
        fit(t, batches)
        log.close()
        run.unlock()
    return stop.seconds / state.progress.step * 1e6


class StopAtLastStep(StopRequest):
    """Stops the clock after the last step, before what `fit` does besides stepping."""

    def __init__(self, state: TrainingState, steps: int) -> None:
        super().__init__()
        self.state, self.steps, self.began, self.seconds = state, steps, 0.0, 0.0

    def __call__(self) -> bool:
        if self.state.progress.step < self.steps - 1:
            return False
        self.seconds = self.seconds or time.perf_counter() - self.began
        return True


def by_hand(config: Classification) -> float:
    """Microseconds a step of the shortest loop that does the same work."""
    source = Digits(name="digits").build()
    task = ClassificationTask(config)
    inputs, labels = source.splits["train"].read(range(len(source.splits["train"]))), source.splits["train"].targets  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1, momentum=0.9, fused=True)
    task.model.train()
    order, steps = torch.randperm(len(labels)), 18 * config.train.epochs
    began = time.perf_counter()
    for step in range(steps - 1):
        index = order[step % 18 * 64 :][:64]
        loss: Tensor = functional.cross_entropy(
            task.model(inputs.index_select(0, index)), labels.index_select(0, index)
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - began) / (steps - 1) * 1e6


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=2000)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--threads", type=int, default=1)
    chosen = arguments.parse_args()
    config = experiment(chosen.steps, chosen.threads)
    torch.set_num_threads(chosen.threads)
    print(machine_line())
    figures: dict[str, list[float]] = {"by hand": [], "mlcli": []}
    for turn in range(chosen.rounds + 1):
        pairs = [("by hand", by_hand), ("mlcli", with_trainer)]
        for name, measure in pairs if turn % 2 else reversed(pairs):
            figure = measure(config)
            if turn:
                figures[name].append(figure)
    for name, values in figures.items():
        print(f"{name:<8} {statistics.median(values):7.1f} us a step ({min(values):.1f} - {max(values):.1f})")
    extra = [ours - hand for ours, hand in zip(figures["mlcli"], figures["by hand"], strict=True)]
    print(f"{'extra':<8} {statistics.median(extra):7.1f} us a step, with a log entry every 50 steps")


if __name__ == "__main__":
    main()
