"""Which batch size: the smallest that this machine computes about as fast as any, measured before training.

A larger batch keeps a device busier, up to a point; beyond it the step only takes longer, while the training gets fewer
steps (Masters & Luschi 2018, arXiv:1804.07612). So the smallest one is taken that is nearly as fast as the best.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from mlcli.engine.contract import Batch, Task
from mlcli.engine.runtime import Runtime, is_out_of_memory
from mlcli.engine.settings import TrainerSettings
from mlcli.errors import OutOfMemoryError
from mlcli.machine.bench.learner import Learner

SMALLEST, LARGEST = 8, 1024
NEARLY = 0.97
"""Share of the best samples per second that is as good."""
BUDGET_S = 20.0
TRIES = 4
"""Steps of a size, of which the fastest counts: the first allocates memory, and the scheduler stalls any of them."""


@dataclass(frozen=True)
class Trial:
    """samples_per_s: of the fastest of some steps with batches of that size."""

    size: int
    samples_per_s: float


def choose_batch_size(task: Task, settings: TrainerSettings, runtime: Runtime) -> tuple[int, str]:
    """The batch size to train with and why. The task's model is worth nothing afterwards.

    Tries 8, 16, 32, ... samples, up to 1,024 or a tenth of the training split (an epoch should have some steps), until
    memory or time runs out or twice the samples are no faster. Raises OutOfMemoryError if the smallest does not fit.
    """
    most = max(1, min(LARGEST, task.splits["train"] // 10))
    sizes = [SMALLEST << doubling for doubling in range(LARGEST.bit_length()) if SMALLEST << doubling <= most] or [most]
    trials = measure(task, settings, runtime, sizes)
    chosen = smallest_fast_enough(trials)
    seen = ", ".join(f"{trial.size}: {trial.samples_per_s:,.0f}" for trial in trials)
    return max(chosen.size, settings.train.accumulate), f"the smallest within 3 % of the best samples/s ({seen})"


def smallest_fast_enough(trials: list[Trial]) -> Trial:
    """The first of some trials, the sizes rising, that is nearly as fast as the fastest."""
    best = max(trial.samples_per_s for trial in trials)
    return next(trial for trial in trials if trial.samples_per_s >= NEARLY * best)


def measure(task: Task, settings: TrainerSettings, runtime: Runtime, sizes: list[int]) -> list[Trial]:
    """Samples per second by size, the sizes rising."""
    train = settings.train.model_copy(update={"batch_size": sizes[-1], "accumulate": 1})
    whole = settings.model_copy(update={"train": train})
    feed = task.feed(runtime, train=train)
    try:
        batch = next(feed.train_batches(0))
        learner = Learner(task, whole, runtime, feed)
        return list(_trials(learner, batch, sizes))
    finally:
        feed.close()


def _trials(learner: Learner, batch: Batch, sizes: list[int]) -> Iterator[Trial]:
    began, before = time.perf_counter(), 0.0
    for number, size in enumerate(sizes):
        try:
            step_s = min(learner.one_step(batch, size) for _ in range(TRIES))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if number == 0:
                raise OutOfMemoryError(
                    f"not even a batch of {size} samples fits into memory",
                    where="train.batch_size=auto",
                    fix="a smaller model or data.image_size",
                ) from error
            return
        yield Trial(size, size / step_s)
        is_slower = size / step_s < before
        next_s = TRIES * 2 * step_s
        if (is_slower and number >= 2) or time.perf_counter() - began + next_s > BUDGET_S:
            return
        before = size / step_s
