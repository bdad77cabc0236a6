"""The task, its predictor and the examination of its data, as `mlcli.experiment.TaskBuilder` wants them."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlcli.data.check.examination import Examination, Finding
from mlcli.data.info import DataInfo
from mlcli.engine.contract import Batch, Choice, DataSource, Direction, Feed, Task
from mlcli.engine.predicting import Inputs, Predictor, Record
from mlcli.engine.runtime import Runtime
from mlcli.engine.settings import Loader, Train
from mlcli.engine.terms import Term, Terms
from mlcli.errors import DataError
from tests.points.config import Circle, Points

INFO = DataInfo("features", (2,), (), "point", (0.0, 0.0), (1.0, 1.0))


@dataclass(frozen=True)
class Rows:
    """Samples: inputs float32 [N, 2], targets float32 [N, 2]."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def read(self, indices: np.ndarray) -> Tensor:
        return self.inputs[torch.as_tensor(indices)]

    def name(self, index: int) -> str:
        return f"circle:{index}"


@dataclass(frozen=True)
class CircleSource:
    splits: Mapping[str, Rows]
    info: DataInfo = INFO


def circle(config: Circle) -> CircleSource:
    def rows(count: int, shift: float) -> Rows:
        angle = (torch.arange(count) + shift) / count * 2 * math.pi
        half = torch.stack([torch.cos(angle / 2), torch.sin(angle / 2)], dim=1)
        return Rows(half, torch.stack([torch.cos(angle), torch.sin(angle)], dim=1))

    return CircleSource({"train": rows(config.samples, 0.0), "val": rows(20, 0.3), "test": rows(20, 0.6)})


class CircleFeed:
    def __init__(self, splits: Mapping[str, Rows], train: Train, device: torch.device) -> None:
        self.splits, self.train, self.device, self.parts = splits, train, device, train.accumulate
        self.steps_per_epoch, self.taken = len(splits["train"]) // train.samples_per_step, slice(None)
        self.choices = [Choice("cache", "ram", "made in memory"), Choice("workers", "0", "nothing to read")]

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        step, size = start_step, self.train.samples_per_step
        while True:
            epoch, position = divmod(step, self.steps_per_epoch)
            order = np.random.default_rng((self.train.seed, epoch)).permutation(len(self.splits["train"]))
            chosen = order[position * size :][:size]
            for part in np.array_split(chosen, self.parts)[self.taken]:
                yield self._batch("train", torch.from_numpy(part))
            step += 1

    def cut(self, parts: int, taken: slice = slice(None)) -> None:
        self.parts, self.taken = parts, taken

    def eval_batches(self, split: str, rank: int = 0, ranks: int = 1, samples: int | None = None) -> Iterator[Batch]:
        batches = torch.arange(samples or len(self.splits[split])).split(8)
        for indices in batches[len(batches) * rank // ranks : len(batches) * (rank + 1) // ranks]:
            yield self._batch(split, indices)

    def names(self, split: str, indices: Tensor) -> list[str]:
        return [self.splits[split].name(index) for index in indices.tolist()]

    def close(self) -> None:
        pass

    def _batch(self, split: str, indices: Tensor) -> Batch:
        rows = self.splits[split]
        return Batch(rows.inputs[indices].to(self.device), rows.targets[indices].to(self.device), indices)


class PointMetrics:
    def __init__(self) -> None:
        self.directions: dict[str, Direction] = {"distance": "min"}
        self.total, self.count = torch.zeros(()), 0

    def update(self, predictions: Tensor, batch: Batch) -> None:
        self.total = self.total + (predictions - batch.targets).norm(dim=1).sum().cpu()
        self.count += len(batch)

    def merge(self, other: "PointMetrics") -> None:
        self.total, self.count = self.total + other.total, self.count + other.count

    def compute(self) -> dict[str, float]:
        return {"distance": self.total.item() / max(1, self.count)}

    def learned(self) -> dict[str, Any]:
        return {}

    def details(self) -> dict[str, Any]:
        return {"points": self.count}


@dataclass(frozen=True)
class Typed:
    """Rows of a text file, two numbers each."""

    names: list[str]
    lines: list[str]
    paths: None = None

    def alike(self, positions: Sequence[int]) -> list[Sequence[int]]:
        return [positions]

    def read(self, positions: Sequence[int]) -> tuple[list[int], Tensor, dict[int, str]]:
        good, rows, errors = [], [], {}
        for position in positions:
            try:
                rows.append([float(number) for number in self.lines[position].split()])
                good.append(position)
            except ValueError as error:
                errors[position] = str(error)
        return good, torch.tensor(rows).reshape(-1, 2), errors


class PointPredictor:
    caveat = ""
    formats: Mapping[str, Callable[[list[Record]], str]] = {".geojson": json.dumps}

    def __init__(self, config: Points) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            hidden = config.model.hidden
            self.model: nn.Module = nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 2))

    def adopt(self, facts: dict[str, Any]) -> None:
        pass

    def inputs(self, paths: Sequence[Path], *, invert: bool = False) -> Inputs:
        if not paths[0].exists():
            raise DataError(f"no such file: {paths[0]}")
        lines = paths[0].read_text().splitlines()
        return Typed([f"{paths[0]}:{number}" for number in range(1, len(lines) + 1)], lines)

    def predict(self, net: nn.Module, inputs: Tensor) -> Tensor:
        return net(inputs)

    def records(self, predictions: Tensor, inputs: Inputs, positions: Sequence[int], top: int | None) -> list[Record]:
        return [{"point": point} for point in predictions.tolist()]

    def rows(self, record: Record) -> list[Record]:
        x, y = record["point"]
        return [{"input": record["input"], "x": x, "y": y}]


class PointTask(PointPredictor):
    primary = "distance"
    is_static = True
    counts_alike = True
    augment = ()

    def __init__(self, config: Points) -> None:
        super().__init__(config)
        self.config, self.source = config, circle(config.data)
        self.splits = {name: len(rows) for name, rows in self.source.splits.items()}
        self.facts: dict[str, Any] = {"task": "points", "data": INFO.to_plain()}

    def describe(self) -> list[tuple[str, str]]:
        return [("data", f"circle  {self.splits['train']} train"), ("model", f"tiny 2-{self.config.model.hidden}-2")]

    def feed(
        self,
        runtime: Runtime,
        *,
        train: Train | None = None,
        loader: Loader | None = None,
        augment: Any = None,
        memory: tuple[Tensor, Tensor] | None = None,
    ) -> Feed:
        splits = dict(self.source.splits)
        if memory is not None:
            splits["train"] = Rows(memory[0], splits["train"].targets[memory[1]])
        return CircleFeed(splits, train or self.config.train, runtime.device)

    def train_mode(self, epoch: int) -> None:
        self.model.train()

    def lr_scale(self, parameter_name: str) -> float:
        return 1.0

    def losses(self, net: nn.Module, batch: Batch) -> Terms:
        distances = (net(batch.inputs).float() - batch.targets).square().sum(dim=1)
        return {"distance": Term(distances.mean(), len(batch))}

    def evaluate(self, net: nn.Module, batch: Batch) -> tuple[Terms, Tensor]:
        return self.losses(net, batch), net(batch.inputs).float()

    def metrics(self, split: str = "train") -> PointMetrics:
        return PointMetrics()

    def pictures(self, split: str, metrics: PointMetrics) -> dict[str, Any]:
        return {}


def build_task(config: Points) -> Task:
    return PointTask(config)


def build_predictor(config: Points, facts: dict[str, Any]) -> Predictor:
    return PointPredictor(config)


def examine(config: Points) -> Examination:
    source: DataSource = circle(config.data)
    found = [] if config.data.samples > 10 else [Finding("error", "few", "so few points make no circle")]
    return Examination([("points", f"{len(source.splits['train'])} to train on")], found)
