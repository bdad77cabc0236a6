"""What is taken for what: names, counts and the pairs most often confused, from the details of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Pair:
    """`count` samples of class `truth` were called `answer`; `of` is how many samples that class has."""

    truth: str
    answer: str
    count: int
    of: int


@dataclass(frozen=True)
class Confusion:
    """Counts by truth (row) and answer (column), int64 [K, K], the K names, and how many samples each truth has [K]."""

    names: tuple[str, ...]
    counts: np.ndarray
    support: np.ndarray

    @classmethod
    def of(cls, detail: dict[str, Any]) -> "Confusion | None":
        """From an evaluation-<split>.json; None if it has no square matrix with a name for each row."""
        names = detail.get("confusion_names") or [
            c.get("name") for c in _list(detail.get("classes")) if isinstance(c, dict)
        ]
        try:
            counts = np.array(detail.get("confusion", []), dtype=np.int64)
        except (ValueError, TypeError, OverflowError):
            return None
        if counts.ndim != 2 or counts.shape != (len(names), len(names)) or not counts.size:
            return None
        return cls(tuple(map(str, names)), counts, counts.sum(axis=1))

    def pairs(self, most: int) -> list[Pair]:
        """The pairs most often confused, the worst first; of equals, in the order of the names."""
        wrong = self.counts.copy()
        np.fill_diagonal(wrong, 0)
        cells = np.argsort(-wrong, axis=None, kind="stable")[:most]
        rows, columns = np.unravel_index(cells, wrong.shape)
        return [
            Pair(self.names[row], self.names[column], int(wrong[row, column]), int(self.support[row]))
            for row, column in zip(rows, columns, strict=True)
            if wrong[row, column]
        ]

    def only(self, most: int) -> "Confusion":
        """The `most` names that take part in most mistakes, in their order; everything if there are no more."""
        if len(self.names) <= most:
            return self
        wrong = self.counts - np.diag(np.diag(self.counts))
        worst = np.sort(np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:most])
        return Confusion(tuple(self.names[i] for i in worst), self.counts[np.ix_(worst, worst)], self.support[worst])


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []
