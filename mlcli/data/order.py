"""In which order samples are visited, as a pure function of (seed, step): there is nothing to replay after a resume."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mlcli.data.randomness import balanced_draw, permutation, sample_keys
from mlcli.engine.settings import Train
from mlcli.errors import ConfigError


@dataclass(frozen=True)
class Part:
    """The samples of one micro-batch.

    indices, keys: int64 [B] on the CPU: positions in the split, and what each sample's random changes follow from.
    share: the micro-batch's part of its optimizer step.
    epoch: passes over the split before this one; 0 where nothing is random.
    """

    indices: Tensor
    keys: Tensor
    share: float = 1.0
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.indices)


class TrainOrder:
    """The micro-batches of a training.

    Step s is step s % steps_per_epoch of epoch s // steps_per_epoch; what fills no batch at an epoch's end is left out.
    A step's samples are cut into `accumulate` parts that differ in size by one at most. Batch normalisation sees the
    parts, not the whole, and mixup and CutMix pair samples within a part; everything else is the same for any cut.

    Args:
        targets: int64 [N] labels or float32 [N] numbers of the training split.
        sampler: shuffle or balanced, as in the loader section.
    """

    def __init__(self, targets: Tensor, train: Train, sampler: str) -> None:
        num = len(targets)
        if train.samples_per_step > num:
            raise ConfigError(
                f"batch_size {train.samples_per_step} is more than the {num} samples of the training split",
                where="train.batch_size",
                fix=f"train.batch_size={num}",
            )
        if sampler == "balanced" and targets.is_floating_point():
            raise ConfigError(
                "a balanced sampler needs classes, but the target is a number",
                where="loader.sampler",
                fix="loader.sampler=shuffle",
            )
        self._targets, self._seed, self._balanced = targets, train.seed, sampler == "balanced"
        self._batch_size = train.samples_per_step
        self.steps_per_epoch = num // train.samples_per_step
        self.cut(train.accumulate)

    def cut(self, parts: int) -> None:
        """From the next `parts` on, every step has that many micro-batches."""
        bounds = [self._batch_size * part // parts for part in range(parts + 1)]
        self._cuts = list(itertools.pairwise(bounds))
        self.largest_part = max(stop - start for start, stop in self._cuts)

    def parts(self, start_step: int) -> Iterator[Part]:
        """Endless, beginning with the first micro-batch of step `start_step`."""
        first_epoch, first_step = divmod(start_step, self.steps_per_epoch)
        for epoch in itertools.count(first_epoch):
            indices, keys = self._epoch(epoch)
            for step in range(first_step if epoch == first_epoch else 0, self.steps_per_epoch):
                begin = step * self._batch_size
                for start, stop in self._cuts:
                    rows = slice(begin + start, begin + stop)
                    yield Part(indices[rows], keys[rows], (stop - start) / self._batch_size, epoch)

    def _epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Indices and keys of a whole epoch, int64 [N] each."""
        if self._balanced:
            indices = torch.from_numpy(balanced_draw(self._targets, self._seed, epoch))
            # A sample drawn twice must not be changed in the same way twice: the draw's place in the epoch is its key.
            return indices, sample_keys(self._seed, epoch, torch.arange(len(indices)))
        indices = torch.from_numpy(permutation(len(self._targets), self._seed, epoch))
        return indices, sample_keys(self._seed, epoch, indices)


def in_order(num: int, batch_size: int) -> Iterator[Part]:
    """Every sample of a split once, front to back; the last part may be smaller. Nothing is random, so keys are 0."""
    for indices in torch.arange(num).split(batch_size):
        yield Part(indices, torch.zeros_like(indices))
