"""Positions in a YAML, and the error that points to one with the source line and a caret."""

from dataclasses import dataclass, field
from typing import Any

from mlcli.errors import ConfigError

SHOWN_WIDTH = 100
"""Characters of a source line that are shown around the caret; longer lines are cut."""
SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Origin:
    """A text that was read: the file (number 0), or an override from the command line (1, 2, ... as given)."""

    name: str
    lines: tuple[str, ...] = field(compare=False)  # hashing a megabyte for each of its mistakes took seconds
    number: int = 0


@dataclass(frozen=True)
class Position:
    """A spot in a text; line and column count from 0, as PyYAML's marks do."""

    origin: Origin
    line: int
    column: int

    @property
    def order(self) -> tuple[int, int, int]:
        """Sorts the file's places by line, then the overrides in the order given."""
        return self.origin.number, self.line, self.column

    def __str__(self) -> str:
        if self.origin.number:
            return self.origin.name
        return f"{self.origin.name}:{self.line + 1}:{self.column + 1}"

    def excerpt(self) -> str:
        """The source line with a caret below; empty for overrides, which `str(place)` already shows whole."""
        if self.origin.number or self.line >= len(self.origin.lines):
            return ""
        line = self.origin.lines[self.line]
        start = max(0, self.column - SHOWN_WIDTH // 2) if len(line) > SHOWN_WIDTH else 0
        shown = _printable(line[start : start + SHOWN_WIDTH])
        # Tabs are kept before the caret so that it stays below its column for any tab width.
        indent = "".join("\t" if c == "\t" else " " for c in shown[: self.column - start])
        return f"\n    {shown}\n    {indent}^"


@dataclass(frozen=True)
class ConfigProblem:
    """One mistake in a configuration; without a place it concerns the whole of it."""

    message: str
    place: Position | None = None

    def __str__(self) -> str:
        if self.place is None:
            return _printable(self.message)
        return _printable(f"{self.place}: {self.message}") + self.place.excerpt()

    @property
    def order(self) -> tuple[int, int, int]:
        return self.place.order if self.place else (-1, 0, 0)


def _printable(text: str) -> str:
    """Text that cannot move the cursor or recolour the terminal it is shown in."""
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in text)


class ConfigErrors(ConfigError):
    """Every mistake found in one configuration, sorted by line: what `x.yaml:4:3: ...` messages are made of."""

    def __init__(self, problems: list[ConfigProblem]) -> None:
        self.problems = tuple(sorted(set(problems), key=lambda problem: (problem.order, problem.message)))
        count = len(self.problems)
        super().__init__(self.problems[0].message if count == 1 else f"{count} problems in the configuration")

    def __str__(self) -> str:
        shown = [str(problem) for problem in self.problems[:SHOWN_PROBLEMS]]
        hidden = len(self.problems) - len(shown)
        return "\n".join(shown + ([f"and {hidden} more"] if hidden else []))

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfigErrors, (list(self.problems),)
