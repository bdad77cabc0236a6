"""Aligned text, and numbers and times as people read them."""

import pytest

from mlcli.report.tables import duration, number, table


def test_columns_line_up():
    assert table(["run", "state", "n"], [["a", "finished", "5"], ["long", "x", "1,000"]], left=2) == (
        "run   state         n\n"
        "a     finished      5\n"
        "long  x         1,000"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.97216, "0.9722"), (-0.5, "-0.5000"), (53.8123, "53.81"), (123456.0, "1.235e+05")],
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (4.23, "4.2s"), (65, "1m 05s"), (3599.7, "1h 00m"), (7380, "2h 03m")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
