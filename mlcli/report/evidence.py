"""The numbers a verdict is based on: scores, curves and their uncertainty, from a run's record. Plain arithmetic."""

import operator
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlcli.report.baselines import Baselines
from mlcli.report.record import SHARES, Record, mapping

Curve = tuple[tuple[int, float], ...]
"""Epochs from 1 and the values after them, ascending."""

RELATIVE_ERROR = {"rmse": 0.5, "mae": 0.57}
"""Variance of the estimate from n normal residuals, relative to its square, times n: of a root mean square 1/2, of a
mean absolute value pi / 2 - 1 (Kendall & Stuart, vol. 1, section 10)."""
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45)
"""97.5 % of Student's t for 1, 2, ... degrees of freedom; beyond, 1.96 + 2.5 / them is as good."""


@dataclass(frozen=True)
class Evidence:
    """One run as numbers.

    metric, direction: what decided what is best; curve: of it on the watched split, `samples` of it; train, val: the
    best model's scores, train only where it was measured in the same way; score: of `split`, the headline's, with
    `score_samples`. train_loss, val_loss: curves; the former as logged, in training mode; lr: after each epoch.
    watched: the split by which the best was chosen, "train" where there is no validation split; macro_f1: its, if
    classes are told apart; data: facts about it. val_given: whether the data name the validation split themselves.
    """

    metric: str
    direction: str
    state: str = "finished"
    curve: Curve = ()
    train_loss: Curve = ()
    val_loss: Curve = ()
    lr: Curve = ()
    train: float | None = None
    val: float | None = None
    samples: int | None = None
    split: str = "val"
    score: float | None = None
    score_samples: int | None = None
    best_epoch: int | None = None
    watched: str = "val"
    macro_f1: float | None = None
    baselines: Baselines | None = None
    config: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    val_given: bool = False

    @classmethod
    def of(cls, record: Record) -> "Evidence":
        """Return the numbers in a run's record."""
        metric, watched = record.metric, str(record.best.get("split", "val"))
        scores, split = record.scores, record.split
        fair = record.baselines if record.baselines and record.baselines.split == split else None
        return cls(
            metric=metric,
            direction=record.direction,
            state=str(record.status.get("state", "")),
            curve=curve(record.entries, watched, metric),
            train_loss=curve(record.entries, "train", "loss"),
            val_loss=curve(record.entries, watched, "loss") if watched != "train" else (),
            lr=curve(record.entries, "train", "lr", last=True),
            train=scores.get("train", {}).get(metric) if watched != "train" else None,
            val=scores.get(watched, {}).get(metric, record.best.get("value")),
            samples=record.samples(watched),
            split=split,
            score=scores.get(split, {}).get(metric),
            score_samples=record.samples(split),
            best_epoch=record.best.get("epoch"),
            watched=watched,
            macro_f1=scores.get(watched, {}).get("macro_f1"),
            baselines=fair,
            config=record.config,
            data=record.data_facts,
            val_given=_val_given(record),
        )

    @property
    def sign(self) -> int:
        """1 if more of the metric is better, -1 if less."""
        return 1 if self.direction == "max" else -1

    @property
    def val_error(self) -> float | None:
        """Standard error of the validation score; at least the scatter of its curve. None where it is unknown.

        Of a metric that ends at 1 and has no formula (mAP), the largest that a share of so many samples can have.
        """
        error = standard_error(self.metric, self.val, self.samples)
        if error is None and self.direction == "max" and self.samples:
            error = 0.5 / self.samples**0.5
        return max((known for known in (error, scatter(self.curve)) if known is not None), default=None)

    @property
    def score_error(self) -> float | None:
        """Standard error of the headline's score."""
        return standard_error(self.metric, self.score, self.score_samples)


def curve(entries: Sequence[dict[str, Any]], split: str, metric: str, *, last: bool = False) -> Curve:
    """Return a metric by epoch; where an epoch has several log points, their mean, or the last one's value.

    Values that are not finite are left out.
    """
    by_epoch: dict[int, list[float]] = {}
    for entry in entries:
        value = entry.get(metric)
        if entry.get("split") == split and isinstance(value, int | float):
            by_epoch.setdefault(int(entry["epoch"]), []).append(float(value))
    of_epoch = operator.itemgetter(-1) if last else statistics.fmean
    return tuple((epoch, of_epoch(values)) for epoch, values in sorted(by_epoch.items()))


def standard_error(metric: str, value: float | None, samples: int | None) -> float | None:
    """Estimate how far a score on so many samples lies from the true one; None for metrics without a formula.

    Shares: binomial, with two right and two wrong samples added, so that 100 % is not taken for certain (Agresti &
    Coull 1998). rmse and mae: of normal residuals. r2: from that of the squared error.
    """
    if value is None or not samples:
        return None
    if metric in SHARES:
        share = (value * samples + 2) / (samples + 4)
        return float((share * (1 - share) / (samples + 4)) ** 0.5)
    if metric in RELATIVE_ERROR:
        return float(abs(value) * (RELATIVE_ERROR[metric] / samples) ** 0.5)
    if metric == "r2":
        return float(abs(1 - value) * (2 / samples) ** 0.5)
    return None


def last_third(points: Curve) -> Curve:
    """Return the part that shows a trend or a scatter: the last third, but at least four points."""
    return points[-max(4, len(points) // 3) :]


def scatter(points: Curve) -> float | None:
    """Standard deviation around the trend in the last third, from second differences; None for too few points."""
    values = [value for _, value in last_third(points)]
    if len(values) < 4:
        return None
    second = [a - 2 * b + c for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return (statistics.fmean(d * d for d in second) / 6) ** 0.5  # a straight line's second differences are 0


@dataclass(frozen=True)
class Trend:
    """A straight line through the last third: rise per epoch, its standard error, epochs covered."""

    slope: float
    error: float
    epochs: int
    points: int

    @property
    def significant(self) -> float:
        """The size a slope must exceed to be significant: 95 % confidence."""
        freedom = self.points - 2
        return self.error * (STUDENT[freedom - 1] if freedom <= len(STUDENT) else 1.96 + 2.5 / freedom)


def trend(points: Curve) -> Trend | None:
    """Least squares through the last third of a curve; None for fewer than three points."""
    part = last_third(points)
    if len(part) < 3:
        return None
    line = statistics.linear_regression([e for e, _ in part], [v for _, v in part])
    spread = sum((e - statistics.fmean(e for e, _ in part)) ** 2 for e, _ in part)
    missed = sum((v - line.intercept - line.slope * e) ** 2 for e, v in part)
    error = (missed / (len(part) - 2) / spread) ** 0.5
    return Trend(line.slope, error, part[-1][0] - part[0][0], len(part))


def _val_given(record: Record) -> bool:
    """Return whether the validation split is not the share of the others that `data.val` asks for."""
    asked = mapping(record.config.get("data")).get("val")
    train, val, test = map(record.samples, ("train", "val", "test"))
    if not isinstance(asked, float) or not train or not val:
        return False
    shares = (val / (train + val), val / (train + val + (test or 0)))
    return not any(abs(share - asked) < 0.01 + 1 / val for share in shares)
