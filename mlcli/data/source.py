"""What a data set is once it has been found: splits of samples that can be read by index, and the facts about them."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mlcli.data.info import DataInfo
from mlcli.engine.contract import Samples


@dataclass(frozen=True, eq=False)
class Arrays:
    """A split that lies in memory: inputs uint8 [N, C, H, W] or float32 [N, F].

    A sample is named `origin:number`: its line in a CSV file, its place in the data set. Without `numbers`, its index.
    """

    inputs: Tensor
    targets: Tensor
    origin: str
    numbers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def read(self, indices: np.ndarray) -> Tensor:
        return self.inputs.index_select(0, torch.from_numpy(np.asarray(indices, dtype=np.int64)))

    def name(self, index: int) -> str:
        return f"{self.origin}:{index if self.numbers is None else self.numbers[index]}"


@dataclass(frozen=True, eq=False)
class Source:
    """A data set as found: its splits ("train" always, "val" and "test" where they exist) and what is known of it."""

    info: DataInfo
    splits: dict[str, Samples]
    notes: tuple[str, ...] = field(default=())
    """What a person should hear: images skipped, classes merged, where the split came from."""

    def in_memory(self, inputs: Tensor, chosen: Tensor) -> "Source":
        """The chosen training samples (int64 [N]) alone, with these inputs in memory."""
        targets = self.splits["train"].targets[chosen]
        return Source(self.info, {"train": Arrays(inputs, targets, "memory")})
