"""Evaluation of a model on one split, and comparison of two results."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mlcli.engine.contract import Batch, Direction, Feed, HasImportance, MeasuresSplits, Metrics, Task
from mlcli.engine.runtime import Runtime
from mlcli.engine.stop import StopRequest
from mlcli.engine.terms import Terms, mean_loss
from mlcli.errors import ConfigError
from mlcli.show.details import Evaluation
from mlcli.show.terminal import bar


class Interrupted(Exception):
    """A stop was asked for in the middle of an evaluation."""


def evaluate_split(
    task: Task,
    net: nn.Module,
    feed: Feed,
    split: str,
    runtime: Runtime,
    stop: StopRequest | None = None,
    answer: Callable[[nn.Module, Batch], tuple[Terms, Any]] | None = None,
    samples: int | None = None,
) -> tuple[dict[str, float], Metrics]:
    """Run over a whole split in evaluation mode, without gradients; of several ranks, each over its part.

    Returns the scores (`loss`, that of all samples at once, where the task has terms for it, then the task's metrics)
    and the metrics object they came from, the same on all ranks. Nothing waits for the device until the end. Raises
    Interrupted if a stop is asked for. answer: in place of the task's `evaluate`. samples: only so many of the split,
    at even distances.
    """
    answer = answer or (task.measured(split) if isinstance(task, MeasuresSplits) else task.evaluate)
    task.model.eval()
    ranks, metrics, found = runtime.ranks, task.metrics(split), list[Terms]()

    def measure_own() -> None:
        share = (samples or task.splits[split]) // ranks.size
        with torch.inference_mode(), runtime.autocast(), bar(f"measuring {split}", share, "sample") as shown:
            for batch in feed.eval_batches(split, ranks.rank, ranks.size, samples):
                if stop is not None and stop.received:
                    break
                terms, predictions = answer(net, batch)
                if terms:
                    found.append(terms)
                metrics.update(predictions, batch)
                shown.update(len(batch))

    ranks.together(measure_own)
    if stop is not None and stop.signal:
        raise Interrupted
    if ranks.size > 1:
        parts, metrics = ranks.gathered((found, metrics)), task.metrics(split)
        found = [terms for terms_of_one, _ in parts for terms in terms_of_one]
        for _, seen in parts:
            metrics.merge(seen)
    loss = {"loss": mean_loss(found)} if found else {}
    return ranks.from_first(lambda: {**loss, **metrics.compute()}), metrics


def evaluation_record(
    run: str,
    checkpoint: str,
    saved: dict[str, Any],
    task: Task,
    split: str,
    runtime: Runtime,
    scores: dict[str, float],
    metrics: Metrics,
) -> Evaluation:
    """Return the content of evaluation-<split>.json: model, split, scores and their details.

    run: its name; saved: the checkpoint's content.
    """
    record: Evaluation = {
        "run": run,
        "checkpoint": checkpoint,
        "step": saved["step"],
        "epoch": saved["epoch"],
        "split": split,
        "samples": task.splits[split],
        "device": str(runtime.device),
        "precision": runtime.precision,
        "overrides": [],
        "caveat": task.caveat,
        "metrics": as_json(scores),
        **metrics.details(),
    }
    if isinstance(task, HasImportance) and (importance := task.importance(split)):
        record["importance"] = importance
    return record


def as_json(scores: dict[str, float]) -> dict[str, float | None]:
    """Return scores with None in place of NaN and infinity, which JSON does not have: what cannot be measured."""
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


@dataclass(frozen=True)
class SelectBy:
    """The metric that decides which weights are the best, and the split it is measured on.

    split: "val", or "train" for data without a validation split, or with one on which nothing can be measured.
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

    def is_best(self, value: float, loss: float | None, best: float | None, best_loss: float | None) -> bool:
        """Whether an evaluation is the best so far: by the metric; of equals, by the lower loss, then the later one.

        loss: None where there is none; best_loss: None also where it is not known, and nothing is then lower.
        """
        ties = value == best and (loss is None or (best_loss is not None and loss <= best_loss))
        return self.improves(value, best) or ties


def choose_metric(task: Task, asked: str | None) -> SelectBy:
    """The metric named in train.watch, or the task's own. Raises ConfigError for a metric the task does not have."""
    directions: dict[str, dict[str, Direction]] = {
        split: task.metrics(split).directions for split in ("val", "train") if split in task.splits
    }
    measurable = directions.get("val") or not directions["train"]  # some tasks have no metric but the loss
    split = "val" if "val" in task.splits and measurable else "train"
    known: dict[str, Direction] = {**directions[split], "loss": "min"}
    metric = asked or task.primary
    if metric not in known:
        fix = f"one of {', '.join(sorted(known))}"
        raise ConfigError(f"train.watch: no metric is called '{metric}'", where="train.watch", fix=fix)
    return SelectBy(metric, known[metric], split)
