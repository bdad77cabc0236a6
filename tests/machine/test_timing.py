"""Medians, spreads and budgets."""

import types

import pytest

from mlcli.machine.bench import measurements
from mlcli.machine.bench.measurements import Timing, repeat


class Clock:
    """Takes the place of the module `time` in measurements.py: it moves only when work says so."""

    def __init__(self, monkeypatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(measurements, "time", types.SimpleNamespace(perf_counter=lambda: self.now_s))


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def test_median_and_interquartile_range():
    found = Timing.of([1.0, 2.0, 3.0, 4.0, 100.0])
    assert found == Timing(3.0, pytest.approx(2 / 3), 5)
    assert found.per_s == pytest.approx(1 / 3)


def test_a_single_lap_has_no_spread():
    assert Timing.of([2.0]).spread is None


def test_what_costs_nothing_can_be_divided_by():
    assert Timing.of([0.0, 0.0]).per_s == pytest.approx(1e9)


def test_quick_work_is_gathered_into_laps(clock):
    calls = []

    def work():
        calls.append(None)
        clock.now_s += 2e-5
        return 2

    found = repeat(work, budget_s=0.05)
    assert len(calls) == 1 + 500 * found.laps  # laps of SHORTEST_LAP_S, after a round that is not timed
    assert found.laps == 5
    assert found.seconds == pytest.approx(1e-5)


def test_slow_work_is_timed_once(clock):
    calls = []

    def work():
        calls.append(None)
        clock.now_s += 0.02
        return 4

    found = repeat(work, budget_s=0.01)
    assert (len(calls), found.laps) == (2, 1)
    assert found.seconds == pytest.approx(0.005)
    calls.clear()
    found = repeat(work, budget_s=0.001)  # so slow that a second round would be too much
    assert (len(calls), found.laps) == (1, 1)
    assert found.seconds == pytest.approx(0.005)
