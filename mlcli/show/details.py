"""The shapes of what an evaluation says, as JSON's types: tasks make it, files keep it, pages and charts show it.

A key that is not there has nothing to say. A task may add more, which the files keep and nobody shows.
"""

from typing import Any, Literal, Required, TypedDict

ClassScore = Literal["ap", "ap50", "precision", "recall", "f1"]


class ClassRow(TypedDict, total=False):
    """A class: its scores, None where they cannot be measured, at the threshold where its F1 is best; its samples."""

    name: Required[str]
    ap: float | None
    ap50: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    threshold: float | None
    support: int


class Curve(TypedDict, total=False):
    """Lists over thresholds, ascending, of what counts as found at each; empty where there is nothing to find."""

    threshold: list[float]
    precision: list[float]
    recall: list[float]
    f1: list[float]
    tp: list[int]
    fp: list[int]
    tn: list[int]
    fn: list[int]


class CalibrationBin(TypedDict):
    """Samples answered with a like confidence: how many, their mean confidence, and the share of right answers."""

    samples: int
    confidence: float
    accuracy: float


class WrongAnswer(TypedDict, total=False):
    """A sample by its position in the split and its file or row; two names of classes; the answer's probability."""

    index: int
    name: str
    truth: str
    answer: str
    probability: float


class Residuals(TypedDict):
    """Numbers predicted: how many; of some, by position, truth and answer; quantiles of answer - truth, as "5 %"."""

    count: int
    index: list[int]
    truth: list[float]
    answer: list[float]
    quantiles: dict[str, float]


class MistakeKind(TypedDict):
    """A kind of a detector's mistakes: how many, and what the mean AP50 (0 to 1) would gain if all were corrected."""

    name: str
    count: int
    delta_map50: float


class ColumnImportance(TypedDict):
    """How much worse the answers are without a column: mean and standard deviation of several shuffles."""

    name: str
    mean: float
    std: float


class Importance(TypedDict):
    """Columns, the most important first, by how much worse a metric is without each: of so many shuffles of samples."""

    metric: str
    repeats: int
    samples: int
    columns: list[ColumnImportance]


class Details(TypedDict, total=False):
    """What single numbers do not show of answers to a split."""

    classes: list[ClassRow]
    confusion: list[list[int]]
    """Counts by truth (row) and answer (column)."""
    confusion_names: list[str]
    """Where its rows are more than the classes."""
    pr_curves: dict[str, Curve]
    """By names of classes."""
    mistakes: list[WrongAnswer]
    """The surest first."""
    calibration: list[CalibrationBin]
    """By confidence, ascending."""
    f1_curve: Curve
    """Of all classes together."""
    best_threshold: float
    """The score at which the F1 of all objects is best."""
    best_f1: float | None
    breakdown: list[MistakeKind]
    residuals: Residuals
    metrics: dict[str, float | None]
    """The scores; None for what cannot be measured."""
    unit: str
    """Of numbers predicted; in no file."""


class Evaluation(Details, total=False):
    """evaluation-<split>.json: details of a model on a split, and what was measured how.

    overrides: `key=value` changes to the run's config. on: new data that were measured. notes: on the data, for people.
    changes: of the data since training (`mlcli.engine.membership.Changes`). tta: views of each image. tiles: side and
    overlap.
    """

    run: str
    checkpoint: str
    step: int
    epoch: int
    split: str
    samples: int
    device: str
    precision: str
    overrides: list[str]
    caveat: str
    importance: Importance
    on: str | None
    notes: list[str]
    changes: dict[str, Any] | None
    tta: list[str]
    tiles: dict[str, float]


class Robustness(TypedDict):
    """robustness-<split>-<change>.json: all scores for each amount ("amount") by which images were changed.

    change: of `mlcli.data.changes`; unit: of its amounts, in words; metric: the score that decides.
    """

    run: str
    checkpoint: str
    split: str
    samples: int
    notes: list[str]
    change: str
    unit: str
    metric: str
    scores: list[dict[str, float | None]]
