"""Precision and recall of each class against the rest at 101 thresholds, counted on the device.

A sample is answered with a class at threshold t if that class's probability is t or more, as in scikit-learn's
`precision_recall_curve`; here the thresholds are the hundredths, whatever the samples, so that batches add up.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

THRESHOLDS = 101
MOST_COUNTED = 1000
"""Classes that are counted: each costs one comparison per sample. ImageNet has as many."""
MOST_CURVES = 20
"""Curves that are handed out: more than a person looks through."""


class PrecisionRecallCounts:
    """How many samples reach each threshold for each class, and how many of those are of the class.

    Args:
        num_classes: C; only the first 1,000 are counted.
        device: where probabilities arrive.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        self._counted = min(num_classes, MOST_COUNTED)
        self._thresholds = torch.arange(THRESHOLDS, device=device).float() / (THRESHOLDS - 1)
        self._first_cell = torch.arange(self._counted, device=device) * THRESHOLDS
        self._all = torch.zeros(self._counted, THRESHOLDS, dtype=torch.int64, device=device)
        self._true = torch.zeros_like(self._all)
        """Samples whose probability lies between a threshold and the next, and those of the class: int64 [C, 101]."""

    def update(self, predictions: Tensor, truth: Tensor) -> None:
        """Take in probabilities [B, C] and labels int64 [B]. Shapes are static: nothing waits for the device."""
        p = predictions[:, : self._counted].float().contiguous()
        bins = (torch.bucketize(p, self._thresholds, right=True) - 1).clamp(0, THRESHOLDS - 1)
        cells = bins + self._first_cell  # [B, C]
        self._all.view(-1).scatter_add_(0, cells.view(-1), torch.ones_like(cells).view(-1))
        counted = truth < self._counted
        own = cells.gather(1, truth.clamp(max=self._counted - 1)[:, None])[:, 0]
        self._true.view(-1).scatter_add_(0, own, counted.long())

    def merge(self, other: "PrecisionRecallCounts") -> None:
        """Add what another set of counts has seen."""
        self._all += other._all.to(self._all.device)
        self._true += other._true.to(self._true.device)

    def curves(self, class_names: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
        """By class name the lists threshold, precision, recall, tp, fp, tn, fn; the 20 classes with most samples.

        Precision is 1 where nothing reaches the threshold, as at the end of scikit-learn's curve. Classes without
        samples have no recall and are left out. Waits for the device.
        """
        answered = self._all.cpu().flip(1).cumsum(1).flip(1)  # [C, 101], at threshold or above
        tp = self._true.cpu().flip(1).cumsum(1).flip(1)
        support, total = tp[:, 0], answered[:, :1]
        fp, fn = answered - tp, support[:, None] - tp
        tn = total - tp - fp - fn
        precision = torch.where(answered > 0, tp / answered.clamp(min=1).double(), 1.0)
        recall = tp / support[:, None].clamp(min=1).double()
        most = support.argsort(descending=True, stable=True)[:MOST_CURVES].sort().values
        columns = {"precision": precision, "recall": recall, "tp": tp, "fp": fp, "tn": tn, "fn": fn}
        thresholds = [step / (THRESHOLDS - 1) for step in range(THRESHOLDS)]
        return {
            class_names[c]: {"threshold": thresholds, **{key: column[c].tolist() for key, column in columns.items()}}
            for c in most.tolist()
            if support[c] > 0
        }
