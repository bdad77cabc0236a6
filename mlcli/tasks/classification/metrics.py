"""How well a classifier does on a split: confusion matrix, top-5, calibration and curves, gathered on the device.

Precision, recall and F1 follow scikit-learn: 0 where undefined, macro averages over the classes that occur in truth or
prediction. Expected calibration error: Guo et al. 2017 (arXiv:1706.04599), eq. 3, with 15 bins as in their section 5.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mlcli.engine.contract import Batch, Direction
from mlcli.tasks.classification.curves import PrecisionRecallCounts
from mlcli.tasks.classification.mistakes import TopMistakes, confused_pairs

TOP = 5
CALIBRATION_BINS = 15


class ClassificationMetrics:
    """Counts that sum over batches, and the figures that follow from them.

    Args:
        num_classes: C.
        class_names: C names in label order.
        device: where predictions arrive; `update` leaves everything there.
        name_of: the file or row behind a position in the split, for `details`; None if they have no names.
    """

    def __init__(
        self,
        num_classes: int,
        class_names: Sequence[str],
        device: torch.device | str = "cpu",
        name_of: Callable[[int], str] | None = None,
    ) -> None:
        self.num_classes, self.class_names = num_classes, tuple(class_names)
        self.directions: dict[str, Direction] = {"accuracy": "max"}
        if num_classes > TOP:
            self.directions["top5_accuracy"] = "max"
        self.directions |= {"macro_precision": "max", "macro_recall": "max", "macro_f1": "max", "ece": "min"}
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        """Samples by truth (row) and prediction (column), int64 [C, C]."""
        self._top5_hits = torch.zeros((), dtype=torch.int64, device=device)
        decimals = torch.float32 if torch.device(device).type == "mps" else torch.float64  # mps has no float64
        self._bins = torch.zeros(3, CALIBRATION_BINS, dtype=decimals, device=device)  # samples, confidence, hits
        self._curves, self.mistakes = PrecisionRecallCounts(num_classes, device), TopMistakes(device)
        self._name_of = name_of

    def update(self, predictions: Tensor, batch: Batch) -> None:
        """Take in probabilities [B, C] and batch.targets int64 [B]. Shapes are static: nothing waits for the device."""
        truth = batch.targets
        confidence, answer = predictions.max(dim=1)  # of equals, the first class
        cells = truth * self.num_classes + answer  # bincount would wait for the largest of them
        self.confusion.view(-1).scatter_add_(0, cells, torch.ones_like(cells))
        self._top5_hits += (_rank_of_truth(predictions, truth) < TOP).sum()
        self._bins += _calibration(confidence, answer == truth).to(self._bins.dtype)
        self._curves.update(predictions, truth)
        self.mistakes.update(confidence, answer, truth, batch.indices.to(truth.device, non_blocking=True))

    def merge(self, other: "ClassificationMetrics") -> None:
        """Add what another set of metrics has seen."""
        self.confusion += other.confusion.to(self.confusion.device)
        self._top5_hits += other._top5_hits.to(self._top5_hits.device)
        self._bins += other._bins.to(self._bins.device)
        self._curves.merge(other._curves)
        self.mistakes.merge(other.mistakes)

    def compute(self) -> dict[str, float]:
        """Each a share from 0 to 1; top5_accuracy only where there are more than 5 classes."""
        confusion = self.confusion.cpu().double()
        total = confusion.sum().clamp(min=1)
        precision, recall, f1 = _per_class(confusion)
        occurs = (confusion.sum(0) + confusion.sum(1)) > 0
        _, confidence, hits = self._bins.cpu().double()
        scores = {
            "accuracy": confusion.diagonal().sum() / total,
            "top5_accuracy": self._top5_hits.cpu() / total,
            "macro_precision": _mean(precision[occurs]),
            "macro_recall": _mean(recall[occurs]),
            "macro_f1": _mean(f1[occurs]),
            "ece": (hits - confidence).abs().sum() / total,  # bin weight * |accuracy - confidence|, summed
        }
        return {name: float(scores[name]) for name in self.directions}

    def per_class(self) -> list[dict]:
        """name, precision, recall, f1 and support (samples of that class) of each class, in label order."""
        confusion = self.confusion.cpu().double()
        columns = (*_per_class(confusion), confusion.sum(1))
        return [
            {"name": name, "precision": p, "recall": r, "f1": f, "support": int(s)}
            for name, p, r, f, s in zip(self.class_names, *(column.tolist() for column in columns), strict=True)
        ]

    def calibration(self) -> list[dict[str, Any]]:
        """Of each bin of confidence that holds samples, from low to high: samples, mean confidence and accuracy."""
        rows = self._bins.cpu().double().T.tolist()
        return [{"samples": int(n), "confidence": c / n, "accuracy": hits / n} for n, c, hits in rows if n]

    def learned(self) -> dict[str, Any]:
        """Nothing: the likeliest class is the answer."""
        return {}

    def details(self) -> dict[str, Any]:
        """What single numbers do not tell, as plain data; see `mlcli.engine.contract.Metrics.details`.

        classes: `per_class`. confusion: counts, a list of rows by truth. pr_curves: at 101 thresholds, by class name.
        mistakes: index, name, truth, answer (names of classes) and probability of the answer, the surest first.
        confused_pairs: truth, answer, count, share. calibration: samples, confidence, accuracy of each bin.
        """
        return {
            "classes": self.per_class(),
            "confusion": self.confusion.tolist(),
            "pr_curves": self._curves.curves(self.class_names),
            "mistakes": [
                {
                    "index": position,
                    **({"name": self._name_of(position)} if self._name_of else {}),
                    "truth": self.class_names[truth],
                    "answer": self.class_names[answer],
                    "probability": probability,
                }
                for position, truth, answer, probability in self.mistakes.read()
            ],
            "confused_pairs": confused_pairs(self.confusion, self.class_names),
            "calibration": self.calibration(),
        }


def _rank_of_truth(predictions: Tensor, truth: Tensor) -> Tensor:
    """How many classes stand before the true one, int64 [B]; of equals, the first class stands first, as in argmax."""
    true = predictions.gather(1, truth[:, None])
    classes = torch.arange(predictions.shape[1], device=predictions.device)
    before = (predictions > true) | ((predictions == true) & (classes < truth[:, None]))
    return before.sum(dim=1)


def _calibration(confidence: Tensor, hit: Tensor) -> Tensor:
    """[3, bins]: samples, summed confidence and hits of each bin ((m - 1) / M, m / M]."""
    bins = ((confidence * CALIBRATION_BINS).ceil().long() - 1).clamp(0, CALIBRATION_BINS - 1)
    # a mask, not scatter_add: floats added atomically come out differently each time
    inside = bins == torch.arange(CALIBRATION_BINS, device=bins.device)[:, None]  # [bins, B]
    return torch.stack([inside.sum(1), (inside * confidence).sum(1), (inside & hit).sum(1)])


def _per_class(confusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and F1, each float64 [C], 0 where the divisor is 0."""
    right, answered, there = confusion.diagonal(), confusion.sum(0), confusion.sum(1)
    return (
        right / answered.clamp(min=1),
        right / there.clamp(min=1),
        2 * right / (answered + there).clamp(min=1),
    )


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else torch.zeros(())
