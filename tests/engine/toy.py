"""A real, tiny task for the trainer's tests: a linear or dropout network on numbers made from a seed."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mlcli.engine.contract import Batch
from mlcli.engine.terms import Term, Terms


class ToyMetrics:
    def __init__(self) -> None:
        self.directions = {"mae": "min", "hits": "max"}
        self.error, self.hits, self.count = torch.zeros(()), torch.zeros(()), 0

    def update(self, predictions: Tensor, batch: Batch) -> None:
        self.error += (predictions - batch.targets).abs().sum()
        self.hits += ((predictions - batch.targets).abs() < 0.5).sum()
        self.count += len(batch)

    def merge(self, other: "ToyMetrics") -> None:
        self.error, self.hits, self.count = self.error + other.error, self.hits + other.hits, self.count + other.count

    def compute(self) -> dict[str, float]:
        return {"mae": self.error.item() / self.count, "hits": self.hits.item() / self.count}

    def learned(self) -> dict[str, Any]:
        return {"hits_seen": int(self.hits)}

    def details(self) -> dict[str, Any]:
        return {"residuals": [self.error.item()]}


class ToyFeed:
    """Batches as a pure function of (seed, step)."""

    def __init__(self, task: "ToyTask") -> None:
        self.choices: list = []
        self.task, self.taken = task, slice(None)
        self.steps_per_epoch = task.samples // task.batch_size

    def train_batches(self, start_step: int):
        step = start_step
        while True:
            epoch, position = divmod(step, self.steps_per_epoch)
            order = np.random.default_rng((self.task.seed, epoch)).permutation(self.task.samples)
            chosen = order[position * self.task.batch_size :][: self.task.batch_size]
            for part in np.array_split(chosen, self.task.accumulate)[self.taken]:
                index = torch.from_numpy(part)
                yield Batch(self.task.inputs[index], self.task.targets[index], index)
            step += 1

    def cut(self, parts: int, taken: slice = slice(None)) -> None:
        self.task.accumulate, self.taken = parts, taken

    def eval_batches(self, split: str, rank: int = 0, ranks: int = 1, samples: int | None = None):
        batches = torch.arange(min(samples or self.task.samples, self.task.samples)).split(7)
        for index in batches[len(batches) * rank // ranks : len(batches) * (rank + 1) // ranks]:
            yield Batch(self.task.inputs[index], self.task.targets[index], index)

    def names(self, split: str, indices: Tensor) -> list[str]:
        return [f"{split}:{i}" for i in indices]

    def close(self) -> None:
        pass


class ToyTask:
    primary = "mae"
    caveat = ""
    is_static = True
    counts_alike = True

    def __init__(
        self, *, samples=24, batch_size=6, accumulate=1, seed=0, dropout=0.0, norm=False, bad_step=None
    ) -> None:
        self.samples, self.batch_size, self.accumulate, self.seed = samples, batch_size, accumulate, seed
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(samples, 4, generator=generator)
        self.targets = self.inputs @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.3
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = [nn.Linear(4, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(dropout)]
            self.model: nn.Module = nn.Sequential(*layers, nn.Linear(8, 1), nn.Flatten(0))
        self.splits = {"train": samples, "val": samples}
        self.facts = {"data": {"class_names": [], "input_shape": [4], "target": "y"}}
        self.calls, self.bad_step, self.modes = 0, bad_step, []

    def feed(self, runtime) -> ToyFeed:
        return ToyFeed(self)

    def train_mode(self, epoch: int) -> None:
        self.modes.append(epoch)
        self.model.train()

    def lr_scale(self, parameter_name: str) -> float:
        return 1.0

    def losses(self, net: nn.Module, batch: Batch) -> Terms:
        self.calls += 1
        loss = (net(batch.inputs).float() - batch.targets).square().mean()
        if self.bad_step is not None and self.calls > self.bad_step:
            loss = loss * float("nan")
        return {"mse": Term(loss, len(batch))}

    def evaluate(self, net: nn.Module, batch: Batch) -> tuple[Terms, Tensor]:
        predictions = net(batch.inputs).float()
        return {"mse": Term((predictions - batch.targets).square().mean(), len(batch))}, predictions

    def metrics(self, split: str = "train") -> ToyMetrics:
        return ToyMetrics()

    def pictures(self, split: str, metrics: ToyMetrics) -> dict[str, Image.Image]:
        return {"error": Image.new("RGB", (4, 3), (round(metrics.error.item()) % 256, 0, 0))}
