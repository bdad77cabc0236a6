"""How long something takes: medians of repeats with their spread, within a budget of seconds."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SHORTEST_LAP_S = 0.01  # work that is quicker is repeated within a lap: a millisecond is at the scheduler's mercy
MOST_LAPS = 20  # longer laps even out bursts: workers deliver together, and then not for a while
FAR_TOO_LONG = 4.0  # times its budget that work may take before it is done no second time
LARGE_SPREAD = 0.15
"""Above it the machine was busy with something else, and a figure should be measured again."""


@dataclass(frozen=True)
class Timing:
    """seconds: median per sample; spread: interquartile range as a share of the median, None for a single lap."""

    seconds: float
    spread: float | None
    laps: int

    @property
    def per_s(self) -> float:
        """Samples a second."""
        return 1 / self.seconds

    @classmethod
    def of(cls, laps: Sequence[float]) -> "Timing":
        """laps: seconds per sample, one for each repeat. A stage that costs nothing measurable takes a nanosecond."""
        median = max(statistics.median(laps), 1e-9)
        if len(laps) < 2:
            return cls(median, None, len(laps))
        low, _, high = statistics.quantiles(laps, n=4, method="inclusive")
        return cls(median, (high - low) / median, len(laps))


def is_above(timing: Timing, bound: float) -> bool:
    """Whether the spread exceeds a bound, in whole percent, as both are shown: no 15% is above 15%."""
    return timing.spread is not None and round(100 * timing.spread) > round(100 * bound)


def shortest_lap_s(budget_s: float) -> float:
    """How long the laps are that a budget is divided into."""
    return max(SHORTEST_LAP_S, budget_s / MOST_LAPS)


def repeat(work: Callable[[], int], budget_s: float, *, least: int = 3) -> Timing:
    """Do `work`, which returns how many samples it was, until the budget is spent, but `least` times.

    One round before goes untimed: the first is always slow. Work that takes longer than the budget is timed once, and
    if it takes far longer, that first round is the one: what makes it slow is little beside the work.
    """
    began = time.perf_counter()
    samples = work()
    first_s = time.perf_counter() - began
    if first_s > FAR_TOO_LONG * budget_s:
        return Timing.of([first_s / samples])
    if first_s > budget_s:
        least = 1
    laps: list[float] = []
    while len(laps) < least or time.perf_counter() - began < budget_s:
        lap_began, samples, lap_s = time.perf_counter(), 0, 0.0
        while lap_s < shortest_lap_s(budget_s):
            samples += work()
            lap_s = time.perf_counter() - lap_began
        laps.append(lap_s / samples)
    return Timing.of(laps)
