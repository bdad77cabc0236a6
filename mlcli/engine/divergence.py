"""Diagnosis of a step that is not finite: it is repeated, and every layer is checked forward and backward.

Batches and random numbers are functions of (seed, step), and the guard has kept the bad step from the weights, so the
step can be repeated as it was. Looking at every layer costs time, which only a run that has ended anyway has.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mlcli.engine.contract import Feed, Task
from mlcli.engine.hooks import leaves, watch
from mlcli.engine.meter import Meter
from mlcli.engine.runtime import Runtime
from mlcli.engine.step import forward_backward
from mlcli.engine.sync_norm import separate
from mlcli.errors import DivergedError
from mlcli.text import first_few

MOST_NAMES = 5
"""Samples named in a message."""
NO_SCALING = torch.amp.GradScaler("cpu", enabled=False)


@dataclass
class Cause:
    """The non-finite values of a step, as far as they can be located.

    losses: the named loss terms of the first bad micro-batch.
    weights: parameters that were not finite before the step.
    inputs: samples that were not finite when they were given to the model.
    targets: samples whose target was not finite.
    layer: where a number first was not finite, in words.
    samples: the samples whose output of that layer was not finite; all of the micro-batch where that is unknown.
    """

    losses: dict[str, float] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    layer: str = ""
    samples: list[str] = field(default_factory=list)

    @property
    def is_found(self) -> bool:
        return bool(self.weights or self.inputs or self.targets or self.layer)

    @property
    def advice(self) -> str:
        """Advice to the user."""
        if self.weights:
            weights = first_few(self.weights, MOST_NAMES)
            return f"weights were not finite before: {weights}; start again from other weights"
        for what, names in (("inputs", self.inputs), ("targets", self.targets)):
            if names:
                shown = first_few(names, MOST_NAMES)
                return f"their {what} are not finite: {shown}; correct or drop them (mlcli data check finds more)"
        return "a lower optimizer.lr, schedule.warmup_epochs=1 or optimizer.clip_norm=1; earlier checkpoints are kept"


def diverged(task: Task, feed: Feed, runtime: Runtime, step: int, *, parts: int, lr: float) -> DivergedError:
    """The error to end a run with whose step `step` (from 0) was not finite; its weights are those before the step.

    parts: micro-batches of a step.
    """
    causes = runtime.ranks.gathered(find_cause(task, feed, runtime, step, parts))
    cause = next((cause for cause in causes if cause.is_found), causes[0])
    losses = ", ".join(f"{name} = {value:g}" for name, value in cause.losses.items())
    finite = all(map(math.isfinite, cause.losses.values()))
    what = f"the gradients are not finite; the loss is: {losses}" if finite else f"the loss is not finite: {losses}"
    epoch = step // feed.steps_per_epoch + 1
    where = [f"step {step + 1} (epoch {epoch}), learning rate {lr:.3g}; the weights are as before it"]
    if cause.layer:
        where.append(f"first {cause.layer}")
    where.append(f"samples: {first_few(cause.samples, MOST_NAMES)}")
    return DivergedError(what, where="; ".join(where), fix=cause.advice)


def find_cause(task: Task, feed: Feed, runtime: Runtime, step: int, parts: int) -> Cause:
    """Take the step again, without its update, until something is not finite."""
    task.train_mode(step // feed.steps_per_epoch)
    separate(task.model)  # another rank may find it sooner
    task.model.zero_grad(set_to_none=True)
    cause = Cause(weights=[name for name, value in task.model.named_parameters() if not _is_finite(value)])
    for part, batch in enumerate(itertools.islice(feed.train_batches(step), parts)):
        runtime.seed_step(step, runtime.ranks.rank + part * runtime.ranks.size)
        names = feed.names("train", batch.indices)
        cause.samples = names
        cause.inputs = _at(names, _bad_rows(batch.inputs, len(batch)))
        cause.targets = _at(names, _bad_rows(batch.targets, len(batch)))
        trace = _Trace()
        with watch(leaves(task.model), after=trace.look):
            terms = forward_backward(task, task.model, batch, runtime, NO_SCALING, Meter())
        cause.losses = {name: term.mean.item() for name, term in terms.items()}
        cause.layer, rows = trace.first(task.model, cause.losses)
        if rows is not None and len(rows) == len(batch) and not all(rows):
            cause.samples = _at(names, rows)
        if cause.is_found or not all(map(math.isfinite, cause.losses.values())):
            break
    task.model.zero_grad(set_to_none=True)
    return cause


class _Trace:
    """The first of the outputs, and of the gradients that come back to them, that was not finite."""

    def __init__(self) -> None:
        self._forward: tuple[str, list[bool] | None] | None = None
        self._backward: str | None = None

    def look(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        label = f"{name or 'model'} ({type(module).__name__})"

        def look_back(gradient: Tensor) -> None:
            if self._backward is None and not _is_finite(gradient):
                self._backward = label

        for value in tree_leaves(output):
            if not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            if self._forward is None and not _is_finite(value):
                self._forward = (label, _bad_rows(value, len(value) if value.ndim else 0))
            if value.requires_grad:
                value.register_hook(look_back)

    def first(self, model: nn.Module, losses: dict[str, float]) -> tuple[str, list[bool] | None]:
        """Return where it began, in words (empty if unknown), and whether each sample is concerned, if known."""
        if self._forward is not None:
            return f"in the output of {self._forward[0]}", self._forward[1]
        bad_terms = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad_terms:
            return f"in the loss term {bad_terms[0]}; every layer's output is finite", None
        if self._backward is not None:
            return f"in the gradient that comes back to the output of {self._backward}", None
        for name, parameter in reversed(list(model.named_parameters())):
            if parameter.grad is not None and not _is_finite(parameter.grad):
                return f"in the gradient of {name}", None
        return "", None


def _is_finite(value: Tensor) -> bool:
    return bool(value.detach().isfinite().all())


def _bad_rows(value: Any, num: int) -> list[bool] | None:
    """For each of `num` samples whether its row is not finite; None where the value is no such tensor."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim == 0 or len(value) != num:
        return None
    return (~value.detach().isfinite()).flatten(1).any(1).tolist() if value.ndim > 1 else (~value.isfinite()).tolist()


def _at(names: list[str], rows: list[bool] | None) -> list[str]:
    return [name for name, bad in zip(names, rows or [], strict=False) if bad]
