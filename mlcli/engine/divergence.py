"""Why a step is not finite: it is taken once more, and every layer is looked at on the way forth and back.

Batches and random numbers are functions of (seed, step), and the guard has kept the bad step from the weights, so the
step can be repeated as it was. Looking at every layer costs time, which only a run that has ended anyway has.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mlcli.engine.contract import Feed, Task, total
from mlcli.engine.runtime import Runtime
from mlcli.errors import DivergedError
from mlcli.text import first_few

MOST_NAMES = 5
"""Samples named in a message."""


@dataclass
class Finding:
    """What is not finite in a step, as far as it could be told.

    losses: the named loss terms of the first bad micro-batch.
    weights: parameters that were not finite before the step.
    inputs: samples that were not finite when they were given to the model.
    targets: samples whose target was not finite.
    layer: where a number first was not finite, in words.
    samples: the samples whose output of that layer was not finite; all of the micro-batch where it cannot be told.
    """

    losses: dict[str, float] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    layer: str = ""
    samples: list[str] = field(default_factory=list)

    @property
    def found(self) -> bool:
        return bool(self.weights or self.inputs or self.targets or self.layer)


def diverged(task: Task, feed: Feed, runtime: Runtime, step: int, *, parts: int, lr: float) -> DivergedError:
    """The error to end a run with whose step `step` (from 0) was not finite; its weights are those before the step.

    parts: micro-batches of a step.
    """
    finding = examine(task, feed, runtime, step, parts)
    losses = ", ".join(f"{name} = {value:g}" for name, value in finding.losses.items())
    finite = all(map(math.isfinite, finding.losses.values()))
    what = f"the gradients are not finite; the loss is: {losses}" if finite else f"the loss is not finite: {losses}"
    epoch = step // feed.steps_per_epoch + 1
    where = [f"step {step + 1} (epoch {epoch}), learning rate {lr:.3g}; the weights are as before it"]
    if finding.layer:
        where.append(f"first {finding.layer}")
    where.append(f"samples: {first_few(finding.samples, MOST_NAMES)}")
    return DivergedError(what, where="; ".join(where), fix=_advice(finding))


def _advice(finding: Finding) -> str:
    if finding.weights:
        return (
            f"weights were not finite before: {first_few(finding.weights, MOST_NAMES)}; start again from other weights"
        )
    for what, names in (("inputs", finding.inputs), ("targets", finding.targets)):
        if names:
            which = first_few(names, MOST_NAMES)
            return f"their {what} are not finite: {which}; correct or drop them (mlcli data check finds more)"
    return "a lower optimizer.lr, schedule.warmup_epochs=1 or optimizer.clip_norm=1; earlier checkpoints are kept"


def examine(task: Task, feed: Feed, runtime: Runtime, step: int, parts: int) -> Finding:
    """Take the step again, without its update, until something is not finite."""
    task.train_mode(step // feed.steps_per_epoch)
    runtime.seed_step(step)
    task.model.zero_grad(set_to_none=True)
    finding = Finding(weights=[name for name, value in task.model.named_parameters() if not _is_finite(value)])
    for batch in itertools.islice(feed.train_batches(step), parts):
        names = feed.names("train", batch.indices)
        finding.samples = names
        finding.inputs = _at(names, _bad_rows(batch.inputs, len(batch)))
        finding.targets = _at(names, _bad_rows(batch.targets, len(batch)))
        with _Tracer(task.model) as tracer:
            with runtime.autocast():
                terms = task.losses(task.model, batch)
            finding.losses = {name: term.item() for name, term in terms.items()}
            total(terms).backward()
        finding.layer, rows = tracer.verdict(task.model, finding.losses)
        if rows is not None and len(rows) == len(batch) and not all(rows):
            finding.samples = _at(names, rows)
        if finding.found or not all(map(math.isfinite, finding.losses.values())):
            break
    task.model.zero_grad(set_to_none=True)
    return finding


class _Tracer:
    """Watches what each innermost module puts out, and the gradient that comes back to it."""

    def __init__(self, model: nn.Module) -> None:
        self._leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
        self._forward: tuple[str, list[bool] | None] | None = None
        self._backward: str | None = None

    def __enter__(self) -> "_Tracer":
        self._hooks = [module.register_forward_hook(self._watch(name)) for name, module in self._leaves]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def verdict(self, model: nn.Module, losses: dict[str, float]) -> tuple[str, list[bool] | None]:
        """Where it began, in words (empty if nowhere), and for each sample whether it is concerned if that is known."""
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

    def _watch(self, name: str) -> Any:
        def look(module: nn.Module, inputs: tuple, output: Any) -> None:
            for value in _tensors(output):
                label = f"{name or 'model'} ({type(module).__name__})"
                if self._forward is None and not _is_finite(value):
                    self._forward = (label, _bad_rows(value, len(value) if value.ndim else 0))
                if value.requires_grad:
                    value.register_hook(lambda gradient, label=label: self._came_back(label, gradient))

        return look

    def _came_back(self, label: str, gradient: Tensor) -> None:
        if self._backward is None and not _is_finite(gradient):
            self._backward = label


def _tensors(output: Any) -> list[Tensor]:
    """The floating-point tensors in what a module puts out."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, dict):
        output = list(output.values())
    return [tensor for item in output for tensor in _tensors(item)] if isinstance(output, list | tuple) else []


def _is_finite(value: Tensor) -> bool:
    return bool(value.detach().isfinite().all())


def _bad_rows(value: Any, num: int) -> list[bool] | None:
    """For each of `num` samples whether its row is not finite; None where the value is no such tensor."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim == 0 or len(value) != num:
        return None
    return (~value.detach().isfinite()).flatten(1).any(1).tolist() if value.ndim > 1 else (~value.isfinite()).tolist()


def _at(names: list[str], rows: list[bool] | None) -> list[str]:
    return [name for name, bad in zip(names, rows or [], strict=False) if bad]
