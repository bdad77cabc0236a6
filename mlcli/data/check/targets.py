"""Numbers to predict: constants, outliers, and values that neighbours contradict."""

import numpy as np

from mlcli.data.check.finding import Finding, Severity
from mlcli.data.check.rows import Rows
from mlcli.text import plural

FAR, VERY_FAR = 6.0, 12.0
"""Robust z-scores from which a value is worth a look, and probably wrong. A normal value is beyond 6 once in 5e8."""
TO_SIGMA = 1.4826
"""The median of the absolute deviations, times this, is a normal distribution's standard deviation."""


def target_findings(rows: Rows) -> list[Finding]:
    assert rows.numbers is not None
    known = np.flatnonzero(np.isfinite(rows.numbers))
    values = rows.numbers[known]
    if not len(values):
        return []
    if values.min() == values.max():
        what = f"the target '{rows.target}' is {values[0]:g} in every row: nothing to learn"
        return [Finding("error", "constant-target", what, (), "predict another column: data.target")]
    scores = robust_z(values)
    found = []
    ranges: list[tuple[Severity, float, float]] = [("warning", VERY_FAR, np.inf), ("note", FAR, VERY_FAR)]
    for severity, low, high in ranges:
        chosen = np.flatnonzero((scores >= low) & (scores < high))
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
        if len(chosen):
            which = plural(len(chosen), "value", "values")
            what = (
                f"{which} of the target '{rows.target}' at {low:g} robust standard deviations from the median or more"
            )
            places = tuple(f"{rows.names[known[row]]}: {values[row]:g}" for row in chosen.tolist())
            fix = "a slip of the pen, or rare but real? outliers dominate mse; loss.name=smooth_l1 bears them"
            found.append(Finding(severity, "target-outliers", what, places, fix))
    return found


def robust_z(values: np.ndarray) -> np.ndarray:
    """Distance to the median in robust standard deviations; of positive values, the smaller of that and the same of
    their logarithms, since prices and durations are skewed without being wrong."""
    score = _robust_z(values)
    return np.minimum(score, _robust_z(np.log(values))) if values.min() > 0 else score


def _robust_z(values: np.ndarray) -> np.ndarray:
    distance = np.abs(values - np.median(values))
    spread = TO_SIGMA * np.median(distance)
    if spread == 0:  # more than half are equal: the mean deviation of the others
        spread = 1.2533 * distance.mean()
    return distance / spread
