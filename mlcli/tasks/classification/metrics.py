"""Metrics of a classifier on a split: confusion matrix, top-5, calibration, curves and mistakes, on the device.

Precision, recall and F1 follow scikit-learn, 0 where a class is never answered. A class without samples cannot be
measured: it is None in tables, and macro averages are over the others, as in scikit-learn's balanced accuracy.
Expected calibration error: Guo et al. 2017 (arXiv:1706.04599), eq. 3, with 15 bins as in their section 5.
Precision-recall curves: a sample is answered with a class at threshold t if that class's probability is t or more, as
in scikit-learn's `precision_recall_curve`; here the thresholds are the hundredths, independent of the samples, so that
batches add up.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlcli.engine.contract import Batch, Direction
from mlcli.engine.runtime import to_device
from mlcli.show.details import CalibrationBin, ClassRow, Curve, Details, WrongAnswer

TOP = 5
CALIBRATION_BINS = 15
MOST_MISTAKES = 24
"""Kept of a split: four rows of six pictures."""
THRESHOLDS = 101
MOST_COUNTED = 1000
"""Classes that are counted: each costs one comparison per sample. ImageNet has as many."""
MOST_CURVES = 20
"""Curves that are handed out: more than a person looks through."""


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
        # How many classes stand before the true one; of equals, the first class stands first, as in argmax.
        true = predictions.gather(1, truth[:, None])
        classes = torch.arange(self.num_classes, device=predictions.device)
        before = (predictions > true) | ((predictions == true) & (classes < truth[:, None]))
        self._top5_hits += (before.sum(dim=1) < TOP).sum()
        # The bins are ((m - 1) / M, m / M]; a mask, since floats that scatter_add adds come out differently each time.
        bins = ((confidence * CALIBRATION_BINS).ceil().long() - 1).clamp(0, CALIBRATION_BINS - 1)
        inside = bins == torch.arange(CALIBRATION_BINS, device=bins.device)[:, None]  # [bins, B]
        sums = [inside.sum(1), (inside * confidence).sum(1), (inside & (answer == truth)).sum(1)]
        self._bins += torch.stack(sums).to(self._bins.dtype)
        self._curves.update(predictions, truth)
        self.mistakes.update(confidence, answer, truth, to_device(batch.indices, truth.device))

    def __getstate__(self) -> dict[str, Any]:
        """What goes from one process to another: without the names of the samples, which each has."""
        return {**self.__dict__, "_name_of": None}

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
        occurs = confusion.sum(1) > 0
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

    def per_class(self) -> list[ClassRow]:
        """Return precision, recall, f1 and support of each class, in label order."""
        confusion = self.confusion.cpu().double()
        columns = (*_per_class(confusion), confusion.sum(1))
        return [
            {"name": name, "precision": p if s else None, "recall": r if s else None, "f1": f if s else None,
             "support": int(s)}
            for name, p, r, f, s in zip(self.class_names, *(column.tolist() for column in columns), strict=True)
        ]  # fmt: skip

    def calibration(self) -> list[CalibrationBin]:
        """Return the bins that hold samples, from low to high confidence."""
        rows = self._bins.cpu().double().T.tolist()
        return [{"samples": int(n), "confidence": c / n, "accuracy": hits / n} for n, c, hits in rows if n]

    def learned(self) -> dict[str, Any]:
        """No settings: the most probable class is the answer."""
        return {}

    def details(self) -> Details:
        """Return the classes, the confusion matrix, curves at 101 thresholds, the surest mistakes, the calibration."""
        return {
            "classes": self.per_class(),
            "confusion": self.confusion.tolist(),
            "pr_curves": self._curves.curves(self.class_names),
            "mistakes": [self._named(mistake) for mistake in self.mistakes.read()],
            "calibration": self.calibration(),
        }

    def _named(self, mistake: "Mistake") -> WrongAnswer:
        named: WrongAnswer = {"index": mistake.position}
        if self._name_of:
            named["name"] = self._name_of(mistake.position)
        truth, answer = self.class_names[mistake.truth], self.class_names[mistake.answer]
        return {**named, "truth": truth, "answer": answer, "probability": mistake.probability}


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


class PrecisionRecallCounts:
    """Count the samples that reach each threshold for each class, and those among them that are of the class.

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

    def curves(self, class_names: Sequence[str]) -> dict[str, Curve]:
        """Return the curves by class name, of the 20 classes with most samples.

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
        thresholds = [step / (THRESHOLDS - 1) for step in range(THRESHOLDS)]
        return {
            class_names[c]: {
                "threshold": thresholds,
                "precision": precision[c].tolist(),
                "recall": recall[c].tolist(),
                "tp": tp[c].tolist(),
                "fp": fp[c].tolist(),
                "tn": tn[c].tolist(),
                "fn": fn[c].tolist(),
            }
            for c in most.tolist()
            if support[c] > 0
        }


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
