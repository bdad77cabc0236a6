"""The model's own appetite: the trainer's step, timed whole and in its three parts."""

import itertools
import math
from collections.abc import Iterator
from time import perf_counter

from mlcli.engine.contract import Batch, Feed, Task
from mlcli.engine.evaluate import choose_metric
from mlcli.engine.meter import Meter
from mlcli.engine.runtime import Runtime
from mlcli.engine.settings import TrainerSettings
from mlcli.engine.state import TrainingState
from mlcli.engine.step import Stepper
from mlcli.machine.bench.findings import Appetite, Together
from mlcli.machine.bench.timing import FAR_TOO_LONG, Timing, repeat, shortest_lap_s

SMALLEST_BATCH = 2  # of one, batch normalisation refuses
HOPELESS = 10.0  # times the limit: no stall of the scheduler takes that long
TRIES = 3  # steps of a size; the fastest counts: the first allocates memory, and the scheduler stalls any of them


class Learner:
    """A model that learns as in `engine.trainer.fit`, but for the clock. Its weights are worth nothing afterwards."""

    def __init__(self, task: Task, settings: TrainerSettings, runtime: Runtime, feed: Feed) -> None:
        self.settings, self.runtime = settings, runtime
        select_by = choose_metric(task, settings.train.watch)
        state = TrainingState.start(task, feed, settings, runtime, select_by)
        self.stepper = Stepper(task, state, settings, runtime, Meter())
        self.last: tuple[float, float, float, int] = (0.0, 0.0, 0.0, 0)
        """Of the last `one_step`: seconds forward, backward and in the optimizer, and its samples."""
        task.train_mode(0)

    def step(self, batches: Iterator[Batch], meter: Meter) -> int:
        """One optimizer step. Returns the samples it took; waiting for them is on the meter."""
        before, self.stepper.meter = meter.samples, meter
        self.stepper.take(batches, self.settings.train.accumulate, self.stepper.state.schedule.lr_at(0))
        return meter.samples - before

    def one_step(self, batch: Batch, size: int) -> float:
        """Seconds for a step on the first `size` samples of a batch."""
        part = batch.first(size)
        self.last = self._timed(iter([part]), 1)
        return sum(self.last[:3])

    def last_appetite(self) -> Appetite:
        """What the last `one_step` says, for a model of which a second step would take too long."""
        *parts_s, samples = self.last
        forward, backward, optimizer = (Timing.of([part_s / samples]) for part_s in parts_s)
        return Appetite(Timing.of([sum(parts_s) / samples]), forward, backward, optimizer)

    def appetite(self, batches: list[Batch], budget_s: float) -> Appetite:
        """batches: on the device, as many as make a step or more."""
        endless, meter = itertools.cycle(batches), Meter()

        def work() -> int:
            samples = self.step(endless, meter)
            self.runtime.synchronize()
            return samples

        whole = repeat(work, budget_s / 2)
        return Appetite(whole, *self._parts(batches, budget_s / 2))

    def _parts(self, batches: list[Batch], budget_s: float) -> tuple[Timing, Timing, Timing]:
        """Forward, backward and optimizer step, the device waited for after each."""
        laps: list[tuple[float, float, float]] = []
        began, endless = perf_counter(), itertools.cycle(batches)
        while not laps or perf_counter() - began <= budget_s:
            *parts_s, samples = self._timed(endless, self.settings.train.accumulate)
            laps.append(tuple(part_s / samples for part_s in parts_s))  # type: ignore[arg-type]
        forward_laps, backward_laps, optimizer_laps = zip(*(laps[1:] or laps), strict=True)
        return Timing.of(forward_laps), Timing.of(backward_laps), Timing.of(optimizer_laps)

    def _timed(self, batches: Iterator[Batch], parts: int) -> tuple[float, float, float, int]:
        """Seconds of one step forward, backward and in the optimizer, and its samples."""
        self.stepper.meter = meter = Meter(self.runtime.synchronize)
        meter.begin_step(timed=True)
        self.stepper.take(batches, parts, self.stepper.state.schedule.lr_at(0))
        times = meter.times()
        return times["forward"], times["backward"], times["optimizer"], meter.samples

    def together(self, workers: int, batches: Iterator[Batch], budget_s: float) -> Together:
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
                    return Together(workers, Timing.of([first_s / samples]), warming.span().wait_share)
                if first_s > budget_s:
                    least = steps_a_lap = 1
                    break
        self.runtime.synchronize()
        laps: list[float] = []
        meter, began = Meter(), perf_counter()
        while len(laps) < least or perf_counter() - began < budget_s:
            lap_began, samples, lap_s = perf_counter(), 0, 0.0
            while lap_s < shortest_lap_s(budget_s):
                samples += sum(self.step(batches, meter) for _ in range(steps_a_lap))
                self.runtime.synchronize()
                lap_s = perf_counter() - lap_began
            laps.append(lap_s / samples)
        return Together(workers, Timing.of(laps), meter.span().wait_share)


def fitting_batch(learner: Learner, batch: Batch, limit_s: float) -> int:
    """The whole batch if a step on it takes no longer than the limit, otherwise as many samples as do.

    Tries 2, 4, 8, ... samples and interpolates between the last that fit and the first that did not.
    """
    fits, fits_s, size = 0, 0.0, min(SMALLEST_BATCH, len(batch))
    while True:
        step_s = _fastest_step(learner, batch, size, limit_s)
        seems_stalled = fits_s * size <= limit_s * fits  # half of the batch was quick
        if limit_s < step_s <= HOPELESS * limit_s and seems_stalled:
            step_s = min(step_s, _fastest_step(learner, batch, size, limit_s))
        if step_s > limit_s:
            break
        if size == len(batch):
            return size
        fits, fits_s, size = size, step_s, min(2 * size, len(batch))
    if not fits:
        return size
    return fits + int((size - fits) * (limit_s - fits_s) / (step_s - fits_s))


def _fastest_step(learner: Learner, batch: Batch, size: int, limit_s: float) -> float:
    """Seconds for the fastest of some steps; one that is within the limit, or hopelessly far from it, is enough."""
    fastest_s = math.inf
    for _ in range(TRIES):
        fastest_s = min(fastest_s, learner.one_step(batch, size))
        if not limit_s < fastest_s <= HOPELESS * limit_s:
            break
    return fastest_s
