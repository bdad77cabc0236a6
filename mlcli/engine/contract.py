"""Interface of a task; the trainer and the commands know nothing else about it but what predicts (`predicting`).

The three steps of machine learning: the task's `model` is the set of functions, its `losses` say how wrong one of them
is, and the trainer's optimizer looks for a better one. What only some tasks have is a protocol of its own, which
`isinstance` asks for. What makes a task from its configuration is `mlcli.experiment.TaskBuilder`.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mlcli.engine.membership import Membership
from mlcli.engine.runtime import Choice, Runtime
from mlcli.engine.terms import Terms
from mlcli.show.details import Details, Importance

if TYPE_CHECKING:
    from PIL.Image import Image

    from mlcli.engine.settings import Loader, Train

Direction = Literal["max", "min"]


@dataclass
class Batch:
    """Some samples, on the device, ready for the model.

    inputs: what the model is called with; images are uint8 [B, C, H, W] (or float32 in 0..255 after augmentation),
        rows of features float32 [B, F].
    targets: what it should answer: int64 [B] labels, float32 [B, C] mixed labels, float32 [B] numbers.
    indices: int64 [B] on the CPU, the samples' positions in their split.
    """

    inputs: Any
    targets: Any
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: slice) -> "Batch":
        """Return a batch of some of the samples."""
        return Batch(self.inputs[rows], self.targets[rows], self.indices[rows])

    def tensors(self) -> list[Tensor]:
        """Return all tensors of inputs and targets, always in the same order."""
        found: list[Tensor] = []
        each_tensor(found.append, [self.inputs, self.targets])
        return found

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return a batch with what `change` makes of each tensor of inputs and targets."""
        inputs, targets = each_tensor(change, [self.inputs, self.targets])
        return Batch(inputs, targets, self.indices)


def each_tensor(change: Callable[[Tensor], Any], value: Any) -> Any:
    """Return a copy of nested values and plain objects with what `change` makes of each tensor in them."""

    def changed(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return change(leaf)
        if not hasattr(leaf, "__dict__") or isinstance(leaf, type) or callable(leaf):
            return leaf
        copied = copy.copy(leaf)
        vars(copied).update(each_tensor(change, vars(leaf)))
        return copied

    return tree_map(changed, value)


# --- data ------------------------------------------------------------------------------------------------------------


class Info(Protocol):
    """Facts found in a data set; `mlcli.data.info.DataInfo` is one and says what each fact means."""

    @property
    def kind(self) -> Literal["image", "features"]: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def target(self) -> str: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def num_classes(self) -> int: ...
    def to_plain(self) -> dict[str, Any]: ...


class Samples(Protocol):
    """One split of a data set, read by position."""

    @property
    def targets(self) -> Tensor:
        """int64 [N] labels or float32 [N] numbers, on the CPU."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Tensor:
        """Some samples' inputs: uint8 [B, C, H, W] or float32 [B, F] on the CPU. Raises DataError, naming the file."""

    def name(self, index: int) -> str:
        """The file or row behind a sample, for messages and predictions."""


class DataSource(Protocol):
    """A data set as found: its splits ("train" always, "val" and "test" where they exist) and the facts about it."""

    @property
    def info(self) -> Info: ...
    @property
    def splits(self) -> Mapping[str, Samples]: ...


class Named(Protocol):
    """A section of the configuration."""

    @property
    def name(self) -> str: ...


class Feed(Protocol):
    """Batches on the device, as a pure function of (seed, step): nothing to replay when a run resumes."""

    steps_per_epoch: int

    @property
    def choices(self) -> list[Choice]:
        """Decisions where the YAML says auto; "cache" (none, ram, disk, device) and "workers" among them."""

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        """Endless micro-batches, `accumulate` per optimizer step, beginning with those of step `start_step`."""

    def cut(self, parts: int, taken: slice = slice(None)) -> None:
        """Have every step's batch cut into that many micro-batches from the next `train_batches` on.

        taken: those of a step that this process takes; all unless given.
        """

    def eval_batches(self, split: str, rank: int = 0, ranks: int = 1, samples: int | None = None) -> Iterator[Batch]:
        """Every sample of a split once, always in the same order, without augmentation.

        rank, ranks: the part of the batches to be given, of so many; the batches of all parts in turn are the same.
        samples: only so many, at even distances.
        """

    def names(self, split: str, indices: Tensor) -> list[str]:
        """The files or rows behind some samples, for messages."""

    def close(self) -> None:
        """Stop the worker processes."""


@runtime_checkable
class AugmentingFeed(Feed, Protocol):
    """A feed whose random changes can be measured by themselves."""

    def changed(self, inputs: Tensor, part: Any) -> tuple[Any, Any]:
        """Inputs and targets of the training samples of a `mlcli.data.batches.Part`, changed at random."""


# --- learning --------------------------------------------------------------------------------------------------------


class Metrics(Protocol):
    """Numbers about a split, gathered batch by batch on the device and read once at the end."""

    directions: dict[str, Direction]
    """Each metric that can be watched, and whether more or less of it is better: none on a split that has nothing to
    measure. `loss` is added by the trainer."""

    def update(self, predictions: Any, batch: Batch) -> None:
        """Take in one batch without waiting for the device."""

    def merge(self, other: Any) -> None:
        """Add what metrics of the same kind have seen of other samples of the split."""

    def compute(self) -> dict[str, float]:
        """The metrics so far, as plain numbers; NaN for what cannot be measured. Waits for the device."""

    def learned(self) -> dict[str, Any]:
        """Settings of the model that this evaluation chose, such as a score threshold, as JSON's types; kept among the
        facts of the best checkpoint."""

    def details(self) -> Details:
        """Return what single numbers do not show: tables, matrices, curves. Waits for the device."""


class Task(Protocol):
    """One kind of learning: what is learned, from what, and how it is judged."""

    model: nn.Module
    """The module that is saved, counted and clipped; takes `Batch.inputs`."""
    splits: dict[str, int]
    """Samples in each split; train always, val and test where they exist."""
    facts: dict[str, Any]
    """Plain data saved in every checkpoint, enough to use the model elsewhere: "task", its name, and "data", the
    `to_plain()` of a `mlcli.data.info.DataInfo`."""
    primary: str
    """The metric that decides what is best unless train.watch names another."""
    is_static: bool
    """Whether all shapes inside the model follow from those of the batch alone, as compiling it needs."""
    counts_alike: bool
    """Whether all loss terms of a batch have the same count. Where not, a step in several parts costs a pass more."""

    @property
    def augment(self) -> Sequence[Named]:
        """Random changes to training samples, in order; where there are any, the feed is an `AugmentingFeed`."""

    @property
    def source(self) -> DataSource:
        """The samples that the feed reads."""

    @property
    def caveat(self) -> str:
        """Notes on the answers for the reader; may be empty."""

    def describe(self) -> list[tuple[str, str]]:
        """Lines (subject, text) a person should see before training: "data" and "model" among the subjects."""

    def adopt(self, facts: dict[str, Any]) -> None:
        """Use the facts of a checkpoint from here on, whose model is to be evaluated."""

    def feed(
        self,
        runtime: Runtime,
        *,
        train: "Train | None" = None,
        loader: "Loader | None" = None,
        augment: Any = None,
        memory: tuple[Tensor, Tensor] | None = None,
    ) -> Feed:
        """Return the source of batches on this device; settings that are given replace the config's.

        memory: inputs held in memory and the positions int64 [N] of the training samples they are of, which alone are
            the training split then.
        """

    def train_mode(self, epoch: int) -> None:
        """Put the model in training mode and freeze what this epoch (from 0) freezes. A function of the epoch alone."""

    def lr_scale(self, parameter_name: str) -> float:
        """Learning rate of one parameter as a share of the optimizer's."""

    def losses(self, net: nn.Module, batch: Batch) -> Terms:
        """Named loss terms of the batch, which may be a part of a step; their sum is minimised.

        `net` is `model`, or a compiled form of it that shares its weights.
        """

    def evaluate(self, net: nn.Module, batch: Batch) -> tuple[Terms, Any]:
        """Loss terms (none where they would cost another pass) and predictions from one pass, in evaluation mode."""

    def metrics(self, split: str = "train") -> Metrics:
        """A fresh, empty set of metrics for one split."""

    def pictures(self, split: str, metrics: Any) -> dict[str, "Image"]:
        """Return the pictures of an evaluation of `split`, by title: mistakes, confusion, residuals, boxes.

        metrics: as `metrics(split)` made them; they have seen the whole split. The model is in evaluation mode.
        """


@runtime_checkable
class DrawsBatches(Protocol):
    """A task whose training batches can be drawn."""

    def batch_picture(self, batch: Batch) -> "Image | None":
        """The first samples of a training batch after augmentation with what they should be; None of data that cannot
        be drawn."""


@runtime_checkable
class DrawsUntrained(Protocol):
    """A task of which pictures say something before training."""

    def inspection_pictures(self, batch: Batch) -> "dict[str, Image]":
        """Return pictures of an untrained model's answers to a training batch, by title."""


@runtime_checkable
class HasChanceLevel(Protocol):
    """A task that can state the loss of an untrained model."""

    def loss_at_chance(self, batch: Batch) -> tuple[float, str]:
        """The loss of a training batch at chance level, and the formula it follows."""


@runtime_checkable
class HasBaselines(Protocol):
    """A task that classical models can be compared on."""

    @property
    def baseline_source(self) -> DataSource:
        """Samples with one label or one number each."""


@runtime_checkable
class HasMembership(Protocol):
    """A task whose samples can be known again, as evaluating and resuming a run need; its module `build` then takes a
    `KnownData` as the second argument of `build_task`."""

    def membership(self) -> Membership:
        """Return which samples are in which split."""


@runtime_checkable
class MeasuresSplits(Protocol):
    """A task that may look at the samples of a split in another way than at batches of a feed."""

    def measured(self, split: str) -> Callable[[nn.Module, Batch], tuple[Terms, Any]]:
        """Return what takes the place of `evaluate` when a split is measured, from now on until its end."""


class Embeddings(NamedTuple):
    """Points for TensorBoard's projector: float32 [N, F], a label each, small square pictures uint8 [N, 3, S, S]."""

    features: Tensor
    labels: list[str]
    sprites: Tensor | None


@runtime_checkable
class HasEmbeddings(Protocol):
    """A task whose model makes a vector of each sample."""

    def embeddings(self, split: str) -> Embeddings:
        """The inputs of the last layer for some samples of a split."""


@runtime_checkable
class HasImportance(Protocol):
    """A task that can say what its model's answers rest on."""

    def importance(self, split: str) -> Importance | None:
        """Return how much worse the answers to samples of a split become without a column.

        None where there are no columns, or too many, or the answers are not finite. The model is put into evaluation
        mode and left in it.
        """


@runtime_checkable
class HasViews(Protocol):
    """A task on images whose score can be measured on changed images, and on the mean of several views of each.

    The words are those of `mlcli.data.changes`; none of data that are no images.
    """

    @property
    def changes(self) -> Sequence[str]:
        """Changes that leave the truth as it is."""

    @property
    def views(self) -> Sequence[str]:
        """Views whose answers can be made one."""

    def evaluate_views(self, net: nn.Module, batch: Batch, views: Sequence[str]) -> Any:
        """Return predictions from all views of the batch together."""


@runtime_checkable
class MeasuresInTiles(Protocol):
    """A task that can be measured while its model looks in tiles; a `LooksInTiles` as well."""

    def found_in_tiles(self, compute: Callable[[Any], Any], split: str, indices: Tensor) -> Any:
        """Return the predictions, as `Metrics.update` takes, for some samples of a split; compute: of `in_tiles`."""
