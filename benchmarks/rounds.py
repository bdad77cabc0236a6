"""Measure several things in turn, round by round in alternating order, and show the medians as a Markdown table.

What else the machine does then falls on all of them alike, and figures of one table can be compared.
"""

import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)
Measured = TypeVar("Measured")


def alternate(measures: Mapping[Name, Callable[[], Measured]], rounds: int) -> dict[Name, list[Measured]]:
    """Each measure's results in the order of the rounds; every second round goes through them backwards."""
    found: dict[Name, list[Measured]] = {name: [] for name in measures}
    forwards = list(measures)
    for number in range(rounds):
        for name in forwards[::-1] if number % 2 else forwards:
            found[name].append(measures[name]())
    return found


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """`12 (10 - 15)`: the median, the smallest and the largest."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} ({low:{form}} - {high:{form}})"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Markdown; all columns but the first stand right."""
    titles = list(head)
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
