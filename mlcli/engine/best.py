"""Which of two models is better: the watched validation metric and its direction."""

import math
from dataclasses import dataclass

from mlcli.engine.contract import Direction
from mlcli.errors import ConfigError


@dataclass(frozen=True)
class Watch:
    """The validation metric that decides what is best.

    split: where it is measured: "val", or "train" for data without a validation split.
    """

    metric: str
    direction: Direction
    split: str

    def improves(self, value: float, best: float | None, min_delta: float = 0.0) -> bool:
        """Whether `value` beats `best` by more than `min_delta`. NaN never does; anything else beats None."""
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value > best + min_delta if self.direction == "max" else value < best - min_delta


def choose_watch(asked: str | None, primary: str, directions: dict[str, Direction], has_val: bool) -> Watch:
    """The metric named in train.watch, or the task's own. Raises ConfigError for a metric the task does not have."""
    known: dict[str, Direction] = {**directions, "loss": "min"}
    metric = asked or primary
    if metric not in known:
        raise ConfigError(
            f"train.watch: no metric is called '{metric}'",
            where="train.watch",
            fix=f"one of {', '.join(sorted(known))}",
        )
    return Watch(metric, known[metric], "val" if has_val else "train")
