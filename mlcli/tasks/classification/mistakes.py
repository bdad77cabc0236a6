"""What goes wrong: the most confident mistakes, gathered on the device, and the classes taken for each other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

MOST_MISTAKES = 24
"""Kept of a split: four rows of six pictures."""
MOST_PAIRS = 10


class Mistake(NamedTuple):
    """A sample with the wrong answer: its position in the split, two labels, the probability of the answer."""

    position: int
    truth: int
    answer: int
    probability: float


class TopMistakes:
    """The 24 wrong answers with the highest probability; of equals, the first seen."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._probability = torch.full((MOST_MISTAKES,), -1.0, device=device)  # below 0: no mistake
        self._what = torch.zeros(3, MOST_MISTAKES, dtype=torch.int64, device=device)  # index, truth, answer

    def update(self, confidence: Tensor, answer: Tensor, truth: Tensor, indices: Tensor) -> None:
        """All [B]: probability of the answer, answer, label, position in the split. Nothing waits for the device."""
        self._keep(torch.where(answer != truth, confidence.float(), -1.0), torch.stack([indices, truth, answer]))

    def merge(self, other: "TopMistakes") -> None:
        """Add what another set has seen."""
        self._keep(other._probability.to(self._probability.device), other._what.to(self._what.device))

    def _keep(self, probability: Tensor, what: Tensor) -> None:
        everything = torch.cat([self._probability, probability])
        first = everything.argsort(descending=True, stable=True)[:MOST_MISTAKES]  # topk does not say which of equals
        self._probability = everything[first]
        self._what = torch.cat([self._what, what], dim=1)[:, first]

    def read(self) -> list[Mistake]:
        """The surest first. Waits for the device."""
        rows = zip(*self._what.tolist(), self._probability.tolist(), strict=True)
        return [Mistake(*row) for row in rows if row[-1] >= 0]


def confused_pairs(confusion: Tensor, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Which class is most often taken for which: truth, answer, count, and its share of that truth's samples.

    confusion: counts by truth (row) and answer (column), int64 [C, C]. At most 10; of equals, in label order.
    """
    wrong, support = confusion.cpu().clone().fill_diagonal_(0), confusion.cpu().sum(1)
    cells = wrong.flatten().argsort(descending=True, stable=True)[:MOST_PAIRS].tolist()
    pairs = [divmod(cell, len(wrong)) for cell in cells]
    return [
        {
            "truth": class_names[truth],
            "answer": class_names[answer],
            "count": int(wrong[truth, answer]),
            "share": int(wrong[truth, answer]) / int(support[truth]),
        }
        for truth, answer in pairs
        if wrong[truth, answer] > 0
    ]
