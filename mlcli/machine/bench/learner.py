"""The model's own throughput: the trainer's step, timed whole and in its three parts; and the batch size for it.

A larger batch keeps a device busier, up to a point; beyond it the step only takes longer, while the training gets fewer
steps (Masters & Luschi 2018, arXiv:1804.07612). So `train.batch_size: auto` takes the smallest that is nearly as fast
as the best.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

from mlcli.engine.contract import Batch, Feed, Task
from mlcli.engine.evaluate import choose_metric
from mlcli.engine.meter import Meter
from mlcli.engine.runtime import Runtime, is_out_of_memory
from mlcli.engine.settings import TrainerSettings
from mlcli.engine.state import TrainingState
from mlcli.engine.step import Stepper
from mlcli.errors import OutOfMemoryError
from mlcli.machine.bench.measurements import (
    FAR_TOO_LONG,
    JointThroughput,
    ModelThroughput,
    Timing,
    repeat,
    timed_laps,
)

LEAST_WARM_UPS = 2
LEAST_ON_GPU = 4  # allocating, choosing and compiling kernels may go on for some steps
MOST_WARM_UPS = 10
SETTLED = 0.8
"""Share of the fastest step so far that a step must take at least, for the model to be warm."""

Lap = tuple[float, float, float]
"""Seconds per sample of a step: forward, backward and in the optimizer."""


class Learner:
    """A model that takes training steps to be timed; it is modified, and must be discarded afterwards."""

    def __init__(self, task: Task, settings: TrainerSettings, runtime: Runtime, feed: Feed) -> None:
        self.settings, self.runtime = settings, runtime
        select_by = choose_metric(task, settings.train.watch)
        state = TrainingState.start(task, feed, settings, runtime, select_by)
        self.stepper = Stepper(task, state, settings, runtime, Meter())
        self._laps: list[Lap] = []
        """Of the steps that warmed it up."""
        task.train_mode(0)

    def step(self, batches: Iterator[Batch], meter: Meter) -> int:
        """One optimizer step. Returns the samples it took; waiting for them is on the meter."""
        before, self.stepper.meter = meter.samples, meter
        self.stepper.take(batches, self.settings.train.accumulate, self.stepper.state.schedule.lr_at(0))
        return meter.samples - before

    def sample_s(self, batch: Batch) -> float:
        """Seconds a sample that a step on a batch takes."""
        return sum(self._timed(iter([batch]), 1))

    def warm_up(self, batches: list[Batch], budget_s: float) -> float:
        """Take steps until they get no faster: the first ones wait for memory, kernels that are chosen or compiled, and
        threads. Some are taken whatever the budget. Returns seconds a sample of the fastest.
        """
        endless, began, fastest_s = itertools.cycle(batches), perf_counter(), math.inf
        least = LEAST_WARM_UPS if self.runtime.device.type == "cpu" else LEAST_ON_GPU
        for number in range(MOST_WARM_UPS):
            self._laps.append(self._timed(endless, self.settings.train.accumulate))
            step_s = sum(self._laps[-1])
            is_settled, fastest_s = step_s >= SETTLED * fastest_s, min(fastest_s, step_s)
            if number + 1 >= least and (is_settled or perf_counter() - began > budget_s):
                break
        return fastest_s

    def warm_up_throughput(self) -> ModelThroughput:
        """Return the throughput by `warm_up` without its first step, for a model that is too slow for more."""
        laps = self._laps[1:]
        return ModelThroughput(Timing.of([sum(lap) for lap in laps]), *map(Timing.of, zip(*laps, strict=True)))

    def throughput(self, batches: list[Batch], budget_s: float) -> ModelThroughput:
        """batches: on the device, as many as make a step or more."""
        endless, meter = itertools.cycle(batches), Meter()

        def work() -> int:
            samples = self.step(endless, meter)
            self.runtime.synchronize()
            return samples

        whole, laps, began = repeat(work, budget_s / 2), list[Lap](), perf_counter()
        while not laps or perf_counter() - began <= budget_s / 2:
            laps.append(self._timed(endless, self.settings.train.accumulate))
        return ModelThroughput(whole, *map(Timing.of, zip(*(laps[1:] or laps), strict=True)))

    def _timed(self, batches: Iterator[Batch], parts: int) -> Lap:
        """Take one step, for which the device is waited for after each phase."""
        self.stepper.meter = meter = Meter(self.runtime.synchronize)
        meter.begin_step(timed=True)
        self.stepper.take(batches, parts, self.stepper.state.schedule.lr_at(0))
        times = meter.times()
        return times["forward"] / meter.samples, times["backward"] / meter.samples, times["optimizer"] / meter.samples

    def together(self, workers: int, batches: Iterator[Batch], budget_s: float) -> JointThroughput:
        """Learn from a loader that is at work meanwhile, as training does; what was read ahead is used up first.

        If a first step takes longer than the budget, one more is measured; if it takes far longer, it is the only one.
        """
        steps_a_lap = max(1, math.ceil(workers / self.settings.train.accumulate))  # every worker has its turn in a lap
        if workers:  # they have to start before they can read; training does that once
            batches = itertools.chain([next(batches)], batches)
        least, warming, began = 2, Meter(), perf_counter()
        for number in range(steps_a_lap + 1):
            samples = self.step(batches, warming)
            if number == 0:
                self.runtime.synchronize()
                first_s = perf_counter() - began
                if first_s > FAR_TOO_LONG * budget_s:
                    return JointThroughput(workers, Timing.of([first_s / samples]), warming.span().wait_share)
                if first_s > budget_s:
                    least = steps_a_lap = 1
                    break
        self.runtime.synchronize()
        meter = Meter()

        def work() -> int:
            samples = sum(self.step(batches, meter) for _ in range(steps_a_lap))
            self.runtime.synchronize()
            return samples

        timing = timed_laps(work, budget_s, least, perf_counter())
        return JointThroughput(workers, timing, meter.span().wait_share)


# --- batch size ------------------------------------------------------------------------------------------------------

SMALLEST, LARGEST = 8, 1024
NEARLY = 0.97
"""Share of the best samples per second that is as good."""
BATCH_SIZE_BUDGET_S = 20.0
BATCH_TRIES = 4
"""Steps of a size, of which the fastest counts: the first allocates memory, and the scheduler stalls any of them."""


@dataclass(frozen=True)
class Trial:
    """samples_per_s: of the fastest of some steps with batches of that size."""

    size: int
    samples_per_s: float


def choose_batch_size(task: Task, settings: TrainerSettings, runtime: Runtime) -> tuple[int, str]:
    """The batch size to train with and why. The task's model is modified and must be discarded.

    Tries 8, 16, 32, ... samples, up to 1,024 or a tenth of the training split (an epoch should have some steps), until
    memory or time runs out or twice the samples are no faster. Raises OutOfMemoryError if the smallest does not fit.
    """
    most = max(1, min(LARGEST, task.splits["train"] // 10))
    sizes = [SMALLEST << doubling for doubling in range(LARGEST.bit_length()) if SMALLEST << doubling <= most] or [most]
    trials = measure_learner(task, settings, runtime, sizes)
    chosen = smallest_fast_enough(trials)
    seen = ", ".join(f"{trial.size}: {trial.samples_per_s:,.0f}" for trial in trials)
    return max(chosen.size, settings.train.accumulate), f"the smallest within 3 % of the best samples/s ({seen})"


def smallest_fast_enough(trials: list[Trial]) -> Trial:
    """The first of some trials, the sizes rising, that is nearly as fast as the fastest."""
    best = max(trial.samples_per_s for trial in trials)
    return next(trial for trial in trials if trial.samples_per_s >= NEARLY * best)


def measure_learner(task: Task, settings: TrainerSettings, runtime: Runtime, sizes: list[int]) -> list[Trial]:
    """Samples per second by size, the sizes rising."""
    plain = {"batch_size": sizes[-1], "accumulate": 1, "cuda_graphs": False}  # each size's graph would keep its memory
    train = settings.train.model_copy(update=plain)
    whole = settings.model_copy(update={"train": train})
    trials = list[Trial]()
    with contextlib.closing(task.feed(runtime, train=train)) as feed:
        batch = next(feed.train_batches(0))
        learner, began = Learner(task, whole, runtime, feed), perf_counter()
        for size in sizes:
            try:
                sample_s = min(learner.sample_s(batch[:size]) for _ in range(BATCH_TRIES))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if trials:
                    break
                what = f"not even a batch of {size} samples fits into memory"
                fix = "a smaller model or data.image_size"
                raise OutOfMemoryError(what, where="train.batch_size=auto", fix=fix) from error
            is_slower = bool(trials) and 1 / sample_s < trials[-1].samples_per_s
            trials.append(Trial(size, 1 / sample_s))
            next_s = BATCH_TRIES * 2 * size * sample_s
            if (is_slower and len(trials) > 2) or perf_counter() - began + next_s > BATCH_SIZE_BUDGET_S:
                break
    return trials
