"""The learning-rate range test (Smith 2017, arXiv:1506.01186, section 3.3): try all magnitudes in one short training.

The learning rate grows exponentially from step to step. While it is too small the loss stays where it is, then it
falls, and at last it explodes. What is trained is a copy of the model, by the step that training takes: with its
optimizer, clipping, precision, freezing and accumulation.
"""

import copy
import math
import time
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean

import torch

from mlcli.engine.contract import Feed, Task
from mlcli.engine.evaluate import choose_metric
from mlcli.engine.meter import Meter
from mlcli.engine.rehearsal import rehearse
from mlcli.engine.runtime import Runtime
from mlcli.engine.settings import TrainerSettings
from mlcli.engine.state import TrainingState
from mlcli.engine.step import Stepper

LR_MIN, LR_MAX, STEPS = 1e-7, 10.0, 100
LEAST_STEPS = 40
"""Steps below which a curve over eight decades shows nothing any more, five to each."""
MEMORY = 0.8
"""Share of the old value in the moving average: some five steps, under half a decade."""
CEILING = 1.5
"""Times the first losses above which differences are cut off."""
EXPLODED = 4.0
"""Times the lowest loss at which the test ends, as in Howard & Gugger's fastai."""
MARGIN = 3.0
"""Times the suggestion must stay below the turn of the loss: a training is longer than the test."""
PROGRESS = 0.02
"""Share by which the loss must fall for anything to be read from the curve."""


@dataclass(frozen=True)
class Sweep:
    """Measurements of a range test. losses: of each step, before its update; ended: "exploded", "range" or "time"."""

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    ended: str
    planned: int
    seconds: float

    @property
    def level(self) -> float:
        """The loss before anything is learned: the mean of the first tenth of the steps."""
        return fmean(self.losses[: max(1, len(self.losses) // 10)])

    @property
    def smooth(self) -> list[float]:
        """The losses without their noise: a moving average run in both directions, so that it lags in neither.

        What explodes at the end is cut down first, or it would reach far back into the curve.
        """
        ceiling = CEILING * self.level
        losses = [min(loss, ceiling) for loss in self.losses]
        forwards, backwards = moving(losses), moving(losses[::-1])[::-1]
        return [(a + b) / 2 for a, b in zip(forwards, backwards, strict=True)]


@dataclass(frozen=True)
class Suggestion:
    """Learning rates that the curve suggests; None if it suggests none.

    steepest: the learning rate at which the loss fell fastest per decade; lowest: where it was lowest; tenth: a tenth
    of that; best: the one of steepest and tenth to take, and why.
    """

    steepest: float | None
    lowest: float | None
    tenth: float | None
    best: float | None
    why: str


def sweep(
    task: Task,
    feed: Feed,
    settings: TrainerSettings,
    runtime: Runtime,
    *,
    lr_min: float = LR_MIN,
    lr_max: float = LR_MAX,
    steps: int = STEPS,
    budget_s: float = 60.0,
) -> Sweep:
    """Train a copy of the model over rising learning rates; the model and torch's generators stay as they were.

    Takes fewer steps if `steps` of them would take longer than the budget, but LEAST_STEPS at least. Raises as
    `check_batches` for a model that cannot take its input.
    """
    runtime.place(task.model)
    devices = [runtime.device] if runtime.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        batches, batch_s = rehearse(task, feed, runtime, 0)
        affordable = int(budget_s / (batch_s * settings.train.accumulate))
        planned = min(steps, max(LEAST_STEPS, affordable))
        lrs = [lr_min * (lr_max / lr_min) ** (step / (planned - 1)) for step in range(planned)]
        task.train_mode(0)
        select_by = choose_metric(task, settings.train.watch)
        copied = TrainingState.start(task, feed, settings, runtime, select_by, copy.deepcopy(task.model))
        stepper = Stepper(task, copied, settings, runtime, Meter(), guarded=False)  # an explosion ends the test anyway
        losses: list[float] = []
        best, ended, began = math.inf, "range", time.perf_counter()
        for lr in lrs:
            loss = torch.stack(stepper.take(batches, settings.train.accumulate, lr)).sum().item()
            copied.progress.step += 1
            if math.isfinite(loss):
                losses.append(loss)
                now = moving(losses)[-1]
                best = min(best, now)
            if not math.isfinite(loss) or (now > EXPLODED * best and loss > losses[0]):
                ended = "exploded"
                break
            if time.perf_counter() - began > 2 * budget_s:
                ended = "time"
                break
        seconds = time.perf_counter() - began
    return Sweep(tuple(lrs[: len(losses)]), tuple(losses), ended, len(lrs), seconds)


def moving(values: tuple[float, ...] | list[float]) -> list[float]:
    """Exponential moving average, corrected for its start at 0 (Kingma & Ba 2015, section 3)."""
    sums = accumulate(values, lambda old, value: MEMORY * old + (1 - MEMORY) * value, initial=0.0)
    return [value / (1 - MEMORY**count) for count, value in enumerate(sums) if count]


def suggest(seen: Sweep) -> Suggestion:
    """Read the curve: where the loss fell fastest, a tenth of where it was lowest, and which of the two to take."""
    smooth, level = seen.smooth, seen.level
    bottom = min(range(len(smooth)), key=smooth.__getitem__)
    if bottom < 2 or smooth[bottom] > (1 - PROGRESS) * level:
        return Suggestion(None, None, None, None, "the loss never fell, so no learning rate is suggested")
    lowest, begun = seen.lrs[bottom], level - 0.1 * (level - smooth[bottom])  # a tenth of the fall is behind
    start = max((step for step in range(bottom) if smooth[step] > begun), default=0)
    fastest = min(range(start, bottom), key=lambda step: smooth[step + 1] - smooth[step])  # all steps are as wide
    steepest = math.sqrt(seen.lrs[fastest] * seen.lrs[fastest + 1])  # per decade
    tenth = lowest / 10
    if bottom == len(smooth) - 1 and seen.ended == "range":
        return Suggestion(steepest, lowest, tenth, steepest,
                          "the steepest descent, since the loss still fell at the end of the range")  # fmt: skip
    if steepest <= tenth:
        why = "a tenth of the lowest: the loss falls from the steepest descent to there, and the margin is wide"
        return Suggestion(steepest, lowest, tenth, tenth, why)
    margin = f"{lowest / steepest:.1f}x below the turn of the loss"
    if steepest > lowest / MARGIN:
        why = f"a tenth of the lowest: the steepest descent is too close to the edge, {margin}"
        return Suggestion(steepest, lowest, tenth, tenth, why)
    return Suggestion(steepest, lowest, tenth, steepest, f"the steepest descent: the larger of both, and {margin}")
