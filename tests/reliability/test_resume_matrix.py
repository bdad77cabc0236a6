"""A stopped run goes on bit for bit: wherever it stopped, for each kind of model, precision, optimizer and schedule."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mlcli.engine.checkpoint import load_checkpoint
from mlcli.engine.run import RunFolder
from mlcli.engine.trainer import Training
from tests.engine.rig import StopAfter, fingerprint
from tests.reliability.soak import LONG
from tests.reliability.tiny import (
    STEPS,
    STEPS_PER_EPOCH,
    digest,
    experiment,
    metrics_without_times,
    session,
    write_data,
)

FACTORS: dict[str, tuple[str, ...]] = {
    "model": ("mlp", "cnn", "detection"),
    "workers": ("loader.workers=0", "loader.workers=2"),
    "precision": ("train.precision=fp32", "train.precision=bf16", "train.precision=fp16"),
    "ema": ("train.ema=null", "train.ema={decay: 0.9}"),
    "schedule": (
        "schedule={name: constant, warmup_epochs: 0.5}",
        "schedule={name: step}",
        "schedule={name: cosine, warmup_epochs: 0.5}",
        "schedule={name: one_cycle}",
        "schedule={name: polynomial}",
        "schedule={name: plateau, patience: 1, min_delta: 0.5}",
    ),
    "optimizer": (
        "optimizer={name: sgd, lr: 0.02, nesterov: true}",
        "optimizer={name: adam, lr: 3e-3}",
        "optimizer={name: adamw, lr: 3e-3, clip_norm: 1.0}",
        "optimizer={name: rmsprop, lr: 1e-3, momentum: 0.5}",
    ),
}
POLLS = (1, 6, 3, 9, 4) if LONG else (1, 9, 22, 6)
"""How often a session asks whether to stop before it is told to: after each step, and for each batch it evaluates.
9 leads past an evaluation, 1 into one."""


class AfterEachStep(StopAfter):
    """A stop that comes after one step, and never in an evaluation."""

    received = False


def every_pair_of_values() -> list[tuple[str, ...]]:
    """Few combinations among which any two values of two factors meet: always the one that adds most pairs."""
    everything = list(itertools.product(*FACTORS.values()))
    missing = {pair for row in everything for pair in itertools.combinations(row, 2)}
    chosen = []
    while missing:
        chosen.append(max(everything, key=lambda row: len(missing & set(itertools.combinations(row, 2)))))
        missing -= set(itertools.combinations(chosen[-1], 2))
    return chosen


COMBINATIONS = list(itertools.product(*FACTORS.values())) if LONG else every_pair_of_values()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("tiny"))


def everything_of(t: Training) -> dict[str, Any]:
    """What must not depend on whether a run was stopped, by name; the state and the best model as a hash."""
    best = load_checkpoint(t.run.checkpoint("best"))
    kept = {key: best[key] for key in ("model", "scores", "step", "epoch", "best", "facts")}
    return {"state": fingerprint(t.state), "best": digest(kept), "metrics": metrics_without_times(t.run)}


def unstopped(root: Path, config: Any) -> tuple[dict[str, Any], int]:
    """What comes of a run that nobody stops, and how often it asks whether to."""
    counter = StopAfter(10**9)
    t, outcome = session(root, config, stop=counter)
    assert (outcome, t.state.progress.step) == ("finished", STEPS)
    t.run.unlock()
    return everything_of(t), 10**9 - counter.left


def sessions_of(
    root: Path, config: Any, polls: Iterator[int], kind: type[StopAfter] = StopAfter
) -> tuple[dict[str, Any], list[int]]:
    """A run stopped after that many polls of each session in turn: what comes of it, and at which steps it stopped."""
    run: RunFolder | None = None
    stops: list[int] = []
    while True:
        torch.manual_seed(len(stops))  # what a new process's generators hold must not matter
        t, outcome = session(root, config, run=run, stop=kind(next(polls)))
        run = t.run
        if outcome == "finished":
            run.unlock()
            return everything_of(t), stops
        stops.append(t.state.progress.step)


def each_step(data: Path, workers: int) -> Any:
    few = "augment=[{name: random_crop, padding: 1}]"
    return experiment(data, "mlp", few, f"loader.workers={workers}", "train.ema={decay: 0.9}")


@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_at_each_poll_in_turn(data, arena, workers):
    """Every instant at which a run asks: before each step, in the middle of each evaluation, around each save.

    But for the long run, those from the end of one epoch to the next, and with workers, which take long to start, few.
    """
    config = each_step(data, workers)
    whole, polls = unstopped(arena, config)
    chosen = range(0, polls, 6 if workers else 1) if LONG else range(9, 20, 5 if workers else 1)
    stops = set()
    for after in chosen:
        result, (stop,) = sessions_of(arena, config, itertools.chain([after], itertools.repeat(10**9)))
        assert result == whole, f"stopped after step {stop} (poll {after} of {polls})"
        stops.add(stop)
    assert stops >= ({*range(STEPS + 1)} if LONG and not workers else {STEPS_PER_EPOCH})


def test_stopped_after_each_step_of_all(data, arena):
    config = each_step(data, 0)
    whole, _ = unstopped(arena, config)
    result, stops = sessions_of(arena, config, itertools.repeat(1), AfterEachStep)
    assert result == whole
    assert stops == [*range(1, STEPS + 1)]


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda row: " ".join(row).translate(str.maketrans(".", "_")))
def test_stopped_again_and_again(data, arena, combination):
    name, *overrides = combination
    config = experiment(data, name, "train.measure_train=0", *overrides)
    whole, _ = unstopped(arena, config)
    result, stops = sessions_of(arena, config, itertools.cycle(POLLS))
    assert result == whole
    assert len(stops) >= (8 if LONG else 4)
    assert any(step % STEPS for step in stops)
