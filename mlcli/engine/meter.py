"""What the run costs: samples per second and the share of time spent waiting for data, from the host's clock only."""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """samples_per_s: over the whole span; wait_share: part of the span, 0 to 1, in which no batch was ready."""

    samples_per_s: float
    wait_share: float
    seconds: float

    @classmethod
    def between(cls, first: "Reading", last: "Reading") -> "Rates":
        seconds = max(last.time_s - first.time_s, 1e-9)
        return cls((last.samples - first.samples) / seconds, (last.wait_s - first.wait_s) / seconds, seconds)


@dataclass(frozen=True)
class Reading:
    time_s: float
    samples: int
    wait_s: float


class Meter:
    """Counts samples and waiting time since the last line on the screen, and since the last log point within that.

    As a context, `with meter:` marks waiting for a batch. It never looks at the device: on a GPU the host runs ahead,
    and only a reading taken after a synchronisation (a log point reads the loss) spans the true time.
    """

    def __init__(self) -> None:
        self.samples, self.wait_s = 0, 0.0
        self.restart()

    def restart(self) -> None:
        """Begin a new span and a new lap in it."""
        self._span = self._lap = self._now()

    def __enter__(self) -> None:
        self._waiting_since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.wait_s += time.perf_counter() - self._waiting_since

    def count(self, samples: int) -> None:
        self.samples += samples

    def lap(self) -> Rates:
        """The rates since the last lap; the next lap begins."""
        began, self._lap = self._lap, self._now()
        return Rates.between(began, self._lap)

    def span(self) -> Rates:
        """The rates since `restart`."""
        return Rates.between(self._span, self._now())

    def _now(self) -> Reading:
        return Reading(time.perf_counter(), self.samples, self.wait_s)
