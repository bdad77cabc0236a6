"""A few batches through a copy of the model before anything is written: shape errors show here, and the speed."""

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from mlcli.engine.contract import Batch, Feed, Task
from mlcli.engine.hooks import leaves, watch
from mlcli.engine.meter import Meter
from mlcli.engine.runtime import Runtime, is_out_of_memory
from mlcli.engine.step import forward_backward
from mlcli.engine.terms import total
from mlcli.errors import ConfigError, DivergedError, OutOfMemoryError, UserError

REHEARSED_BATCHES = 3
"""The first is always slow, so two say nothing about speed."""


def rehearse(
    task: Task,
    feed: Feed,
    runtime: Runtime,
    start_step: int,
    cut_smaller: Callable[[OutOfMemoryError], object] | None = None,
) -> tuple[Iterator[Batch], float]:
    """Check the first batches from `start_step` on.

    Returns all batches from there, those checked included, and the seconds a micro-batch takes.
    Raises as check_batches, unless `cut_smaller` has the feed cut smaller batches, with which it is tried again.
    """

    def first_batches() -> tuple[Iterator[Batch], float]:
        batches = feed.train_batches(start_step)
        first = list(itertools.islice(batches, REHEARSED_BATCHES))
        return itertools.chain(first, batches), check_batches(task, runtime, first)

    while True:
        try:
            return runtime.ranks.together(first_batches)
        except OutOfMemoryError as error:
            if cut_smaller is None:
                raise
            cut_smaller(error)


def check_batches(task: Task, runtime: Runtime, batches: Iterable[Batch]) -> float:
    """Forward and backward over some batches on a copy of the model, which is left as it was.

    Returns the seconds one micro-batch takes, by the fastest of them. Raises ConfigError naming the layer that cannot
    take its input, OutOfMemoryError, or DivergedError if the very first loss is not finite.
    """
    task.train_mode(0)
    rehearsal, scaler, meter, fastest_s = copy.deepcopy(task.model), runtime.scaler(), Meter(), math.inf
    last_layer = ""

    def remember(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal last_layer
        shape = list(inputs[0].shape) if inputs and isinstance(inputs[0], torch.Tensor) else "?"
        last_layer = f"layer {name or 'model'} ({type(module).__name__}), given {shape}"

    with watch(leaves(rehearsal), before=remember):
        for batch in batches:
            began = time.perf_counter()
            try:
                runtime.seed_step(0)
                terms = forward_backward(task, rehearsal, batch, runtime, scaler, meter)
                value = total(terms).item()
            except (RuntimeError, ValueError) as error:
                raise error_in_words(error, last_layer, len(batch)) from error
            fastest_s = min(fastest_s, time.perf_counter() - began)
            if not math.isfinite(value):
                parts = ", ".join(f"{name} = {term.mean.item():.4g}" for name, term in terms.items())
                raise DivergedError(f"the very first loss is not finite: {parts}", where="check before training",
                                    fix="look for NaN or huge values in the inputs and targets")  # fmt: skip
    return fastest_s


def step_flops(task: Task, batch: Batch, samples: int) -> float:
    """Return about how many floating-point operations a step of `samples` takes, forward and backward.

    Counted on one sample of the batch, forward, on the CPU; a backward pass takes twice as many. Infinite for a model
    that cannot be called there: it is for advice only.
    """
    from torch.utils.flop_counter import FlopCounterMode

    model = copy.deepcopy(task.model).cpu().eval()
    try:
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            model(batch[:1].each(torch.Tensor.cpu).inputs)
    except Exception:  # of whatever kind: no training is to end by what is only advice
        return math.inf
    return 3.0 * samples * counted.get_total_flops()


def error_in_words(error: Exception, last_layer: str, batch_size: int) -> UserError:
    """The error of a forward or backward pass in words for a person.

    last_layer: the innermost layer that was entered last, and the shape of what it was given.
    """
    if is_out_of_memory(error):
        return out_of_memory(batch_size, last_layer)
    reason = str(error).split("\n")[0]
    fix = "a larger image_size, or a model with fewer poolings and strides"
    if "more than 1 value per channel" in reason:
        fix = "batch normalisation needs two samples at once: a larger train.batch_size or a smaller train.accumulate"
    if "deterministic" in reason:  # of a GPU's kernels
        fix = "train.deterministic=false, or a model without this layer"
    return ConfigError(f"the model cannot take this input: {reason}", where=last_layer, fix=fix)


def out_of_memory(batch_size: int, where: str) -> OutOfMemoryError:
    """Return advice to the user, the most effective first."""
    fix = "train.auto_microbatch=true or train.accumulate=2 (the same step in parts), or a smaller model or batch"
    return OutOfMemoryError(f"a micro-batch of {batch_size} samples does not fit into memory", where=where, fix=fix)
