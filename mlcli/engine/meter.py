"""Time measurements: throughput, waiting for data, phases of a step; and a budget of it.

By the host's clock, but for the phases of a step on a GPU, which it works off while the host is elsewhere.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

PHASES = ("forward", "backward", "optimizer")
"""Phases of a step once it has its batch, in this order."""
TOLERATED_WAIT = 0.10
"""Share of the training time spent waiting for batches from which on it is worth a look: `mlcli bench-io`."""


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


class Event(Protocol):
    """A moment of a device's work, as torch.cuda.Event(enable_timing=True)."""

    def record(self) -> None:
        """Take note of the moment when the device gets here."""

    def query(self) -> bool:
        """Whether it did; nothing waits for it."""

    def elapsed_time(self, end_event: Self, /) -> float:
        """Milliseconds from here to another, once the device got to both."""


class Meter:
    """Counts samples and waiting time since the last line on the screen, and since the last log point within that.

    As a context, `with meter:` marks waiting for a batch. On a GPU the host runs ahead, and only a reading taken after
    a synchronisation (a log point reads the loss) spans the true time. So the phases of a step are timed in some steps
    only, and taken to be the same in the others.

    Args:
        synchronize: waits until the device is done.
        event: makes what the device takes note of the end of a phase by; None to wait for the device instead and look
            at the clock. By events a phase is what the device did in it, and nobody waits.
    """

    def __init__(
        self, synchronize: Callable[[], None] = lambda: None, event: Callable[[], Event] | None = None
    ) -> None:
        self._synchronize, self._event = synchronize, event
        self._unread: deque[list[tuple[str, Event]]] = deque()
        """Of each step timed by events that the device was not done with: the name of what ended at each; "" for a
        wait of the host, after which the next phase begins."""
        self.samples, self.wait_s, self.training_s, self.evaluation_s = 0, 0.0, 0.0, 0.0
        self._phase_s = dict.fromkeys(PHASES, 0.0)
        self._timed, self._steps, self._timed_steps, self._marked = False, 0, 0, 0.0
        self.restart()

    def begin_step(self, *, timed: bool) -> None:
        """A step begins; `timed` has its phases measured, which makes a GPU wait."""
        self._timed = timed
        self._steps += 1
        if timed and self._event:
            self._read()
            self._unread.append([])
        elif timed:
            self._synchronize()  # what the device has still to do of earlier steps is no part of this one
            self._timed_steps += 1

    def mark(self, phase: str) -> None:
        """This phase of the step is over."""
        if self._timed and self._event:
            self._record(phase)
        elif self._timed:
            self._synchronize()
            now = time.perf_counter()
            self._phase_s[phase] += now - self._marked
            self._marked = now

    def restart(self) -> None:
        """Begin a new span and a new lap in it."""
        self._span = self._lap = self._now()

    def judged(self, seconds: float) -> None:
        """An evaluation, with what was drawn and saved around it, has taken that long; a new span begins."""
        self.evaluation_s += seconds
        self.training_s += self._now().time_s - self._span.time_s - seconds
        self.restart()

    def times(self) -> dict[str, float]:
        """Seconds so far: data, forward, backward, optimizer, evaluation, and other (logging, saving, this program).

        By events the phases are the device's, and what the host waits or works for meanwhile costs nothing: data and
        other are then of the time that the device was idle.
        """
        self._read()
        seconds = self.training_s + self._now().time_s - self._span.time_s
        share = self._steps / max(1, self._timed_steps)
        phases = {name: phase_s * share for name, phase_s in self._phase_s.items()}
        idle_s = max(0.0, seconds - sum(phases.values()))
        waited_s = min(self.wait_s, idle_s) if self._event else self.wait_s
        return {"data": waited_s, **phases, "evaluation": self.evaluation_s, "other": max(0.0, idle_s - waited_s)}

    def _record(self, name: str) -> None:
        assert self._event is not None
        event = self._event()
        event.record()
        self._unread[-1].append((name, event))

    def _read(self) -> None:
        """Add up the steps that the device is done with."""
        while self._unread and all(event.query() for _, event in self._unread[0][-1:]):
            for (_, began), (name, ended) in itertools.pairwise(self._unread.popleft()):
                if name:
                    self._phase_s[name] += began.elapsed_time(ended) / 1000
            self._timed_steps += 1

    def __enter__(self) -> None:
        self._waiting_since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.wait_s += time.perf_counter() - self._waiting_since
        if self._timed and self._event:
            self._record("")
        elif self._timed:
            self._synchronize()  # nor is what the device has still to do for the batch part of the forward pass
        self._marked = time.perf_counter()

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


class TimeLeft:
    """The time that a training still takes, by what its steps, evaluations and saving took in this process.

    The first steps are slow and do not count. Until an epoch is over, evaluations are unknown and taken as nothing.

    Args:
        epochs: of the whole training.
        clock: returns seconds.
    """

    SLOW_STEPS, RECENT = 3, 3

    def __init__(self, epochs: int, steps_per_epoch: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._epochs, self._steps, self._clock = epochs, steps_per_epoch, clock
        self._taken, self._first, self._last = 0, (0, 0.0), (0, 0.0)
        self._ends: list[tuple[int, float]] = []
        self._after_s = 0.0

    def step(self, epoch: int, done: int) -> None:
        """Take note that `done` steps of an epoch (from 0) are done."""
        self._taken += 1
        self._last = (epoch * self._steps + done, self._clock())
        if self._taken <= self.SLOW_STEPS:
            self._first = self._last

    def epoch(self, epoch: int) -> None:
        """Take note that an epoch (from 0) is evaluated, and all before it are saved."""
        now = self._clock()
        self._after_s = now - self._last[1] if self._taken else 0.0
        self._ends = [*self._ends[-self.RECENT :], (epoch + 1, now)]

    def seconds(self) -> float | None:
        """Return the seconds left from now on; None while nothing is known."""
        now = self._clock()
        if len(self._ends) > 1:
            (before, began), (done, ended) = self._ends[0], self._ends[-1]
            return max(0.0, (ended - began) / (done - before) * (self._epochs - done) - (now - ended))
        (begun, began), (done, ended) = self._first, self._last
        if done == begun:
            return None
        step_s = (ended - began) / (done - begun)
        epochs_left = self._epochs - (self._ends[0][0] if self._ends else 0)
        return step_s * (self._epochs * self._steps - done) + self._after_s * epochs_left


class Budget:
    """The share of the training time that looking at the training may take.

    Allows work of several kinds while all of it together stays within a share of the time gone by.

    Args:
        share: of the time since this object was made, 0 to 1.
        first_s: by kind, the seconds that the first piece of work is taken to cost; later ones, as much as the last.
    """

    def __init__(self, share: float, first_s: dict[str, float]) -> None:
        self._share, self._cost_s = share, dict(first_s)
        self._began, self.spent_s = time.perf_counter(), 0.0

    def allows(self, kind: str) -> bool:
        """Whether one more piece of this kind fits by now."""
        return self.spent_s + self._cost_s[kind] <= self._share * (time.perf_counter() - self._began)

    def spend(self, kind: str, seconds: float) -> None:
        """A piece of this kind has cost that much."""
        self.spent_s += seconds
        self._cost_s[kind] = seconds
