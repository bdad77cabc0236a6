"""What a task gives the trainer. The trainer knows nothing else about what is being learned.

The three steps of machine learning, as this house spells them: the task's `model` is the set of functions, its `losses`
say how wrong one of them is, and the trainer's optimizer looks for a better one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

from mlcli.engine.runtime import Choice, Runtime

if TYPE_CHECKING:
    from PIL.Image import Image

Direction = Literal["max", "min"]


@dataclass
class Batch:
    """Some samples, on the device, ready for the model.

    inputs: what the model is called with; images are uint8 [B, C, H, W] (or float32 in 0..255 after augmentation),
        rows of features float32 [B, F].
    targets: what it should answer: int64 [B] labels, float32 [B, C] mixed labels, float32 [B] numbers.
    indices: int64 [B] on the CPU, the samples' positions in their split.
    share: this micro-batch's part of its optimizer step, so that the gradients of all parts add up to the whole.
    """

    inputs: Any
    targets: Any
    indices: Tensor
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.indices)


class Embeddings(NamedTuple):
    """Points for TensorBoard's projector: float32 [N, F], a label each, small square pictures uint8 [N, 3, S, S]."""

    features: Tensor
    labels: list[str]
    sprites: Tensor | None


def total(terms: dict[str, Tensor]) -> Tensor:
    """The loss that is minimised: the sum of its named terms."""
    first, *others = terms.values()
    return sum(others, start=first)


class Metrics(Protocol):
    """Numbers about a split, gathered batch by batch on the device and read once at the end."""

    directions: dict[str, Direction]
    """Each metric that can be watched, and whether more or less of it is better. `loss` is added by the trainer."""

    def update(self, predictions: Any, batch: Batch) -> None:
        """Take in one batch without waiting for the device."""

    def compute(self) -> dict[str, float]:
        """The metrics so far, as plain numbers. Waits for the device."""

    def learned(self) -> dict[str, Any]:
        """What whoever uses the model needs of this evaluation, such as a score threshold, as JSON's types; kept among
        the facts of the best checkpoint."""

    def details(self) -> dict[str, Any]:
        """What single numbers do not tell, as JSON's types: tables, matrices, curves. Waits for the device.

        Keys that others know how to show: "classes", a list of dicts that begin with "name"; "confusion", counts by
        truth (row) and answer (column); "confusion_names", where its rows are more than the classes; "pr_curves", for
        each class name the lists threshold, precision, recall, tp, fp, tn, fn; "mistakes", a list of dicts.
        """


class Feed(Protocol):
    """Batches on the device, as a pure function of (seed, step): nothing to replay when a run resumes."""

    steps_per_epoch: int

    @property
    def choices(self) -> list[Choice]:
        """What was decided where the YAML said auto."""

    def train_batches(self, start_step: int) -> Iterator[Batch]:
        """Endless micro-batches, `accumulate` per optimizer step, beginning with those of step `start_step`."""

    def cut(self, parts: int) -> None:
        """Have every step's batch cut into that many micro-batches from the next `train_batches` on."""

    def eval_batches(self, split: str) -> Iterator[Batch]:
        """Every sample of a split once, in order, without augmentation."""

    def names(self, split: str, indices: Tensor) -> list[str]:
        """The files or rows behind some samples, for messages."""

    def close(self) -> None:
        """Stop the worker processes."""


class Task(Protocol):
    """One kind of learning: what is learned, from what, and how it is judged."""

    model: nn.Module
    """What is saved, counted and clipped; takes `Batch.inputs`."""
    splits: dict[str, int]
    """Samples in each split; train always, val and test where they exist."""
    facts: dict[str, Any]
    """Plain data saved in every checkpoint: what a stranger needs to use the model (classes, shapes, preparation)."""
    primary: str
    """The metric that decides what is best unless train.watch names another."""
    is_static: bool
    """Whether all shapes inside the model follow from those of the batch alone, as compiling it needs."""

    @property
    def caveat(self) -> str:
        """What a person should know about the answers; empty if nothing."""

    def describe(self) -> list[tuple[str, str]]:
        """Lines (subject, text) a person should see before training: the data, the model."""

    def feed(self, runtime: Runtime) -> Feed:
        """Where batches come from, on this device."""

    def train_mode(self, epoch: int) -> None:
        """Put the model in training mode and freeze what this epoch (from 0) freezes. A function of the epoch alone."""

    def lr_scale(self, parameter_name: str) -> float:
        """Learning rate of one parameter as a share of the optimizer's."""

    def losses(self, net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Named loss terms, each a mean over the batch; their sum is minimised.

        `net` is `model`, or a compiled form of it that shares its weights.
        """

    def evaluate(self, net: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], Any]:
        """Loss terms (none where they would cost another pass) and predictions from one pass, in evaluation mode."""

    def metrics(self, split: str = "train") -> Metrics:
        """A fresh, empty set of metrics for one split."""

    def batch_picture(self, batch: Batch) -> "Image | None":
        """The first samples of a training batch after augmentation with what they should be; None if there is nothing
        to be seen."""

    def inspection_pictures(self, batch: Batch) -> "dict[str, Image]":
        """What an untrained model does with a training batch, by title; empty where there is nothing to be seen."""

    def embeddings(self, split: str) -> "Embeddings | None":
        """What the layer before the last makes of a split's first samples; None where that says nothing."""

    def pictures(self, split: str, metrics: Metrics) -> dict[str, "Image"]:
        """What a person should look at after an evaluation of `split`, by title: mistakes, confusion, residuals, boxes.

        `metrics` has seen the whole split; the model is in evaluation mode.
        """
