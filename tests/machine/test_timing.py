"""Medians, spreads and budgets."""

import time

import pytest

from mlcli.machine.bench.timing import Timing, repeat


def test_median_and_interquartile_range():
    timing = Timing.of([1.0, 2.0, 3.0, 4.0, 100.0])
    assert timing == Timing(3.0, pytest.approx(2 / 3), 5)
    assert timing.per_s == pytest.approx(1 / 3)


def test_a_single_lap_has_no_spread():
    assert Timing.of([2.0]).spread is None


def test_what_costs_nothing_can_be_divided_by():
    assert Timing.of([0.0, 0.0]).per_s == pytest.approx(1e9)


def test_quick_work_is_gathered_into_laps():
    calls = []
    timing = repeat(lambda: calls.append(None) or 2, budget_s=0.05)
    assert len(calls) > 100 * timing.laps
    assert timing.seconds < 1e-4


def test_slow_work_is_timed_once():
    calls = []

    def work():
        calls.append(None)
        time.sleep(0.02)
        return 4

    timing = repeat(work, budget_s=0.01)
    assert (len(calls), timing.laps) == (2, 1)
    assert timing.seconds >= 0.005
    calls.clear()
    timing = repeat(work, budget_s=0.001)  # so slow that a second round would be too much
    assert (len(calls), timing.laps) == (1, 1)
    assert timing.seconds >= 0.005
