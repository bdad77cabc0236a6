"""Steps as CUDA graphs: the kernels of forward and backward are launched as one, not one by one.

A step of a small model costs a GPU less than the host, which launches its kernels. PyTorch takes note of them once and
launches all at once from then on (torch.cuda.graph; "CUDA semantics", section "CUDA Graphs"). Captured are forward,
loss and backward over a part of a step, as there in the example with loss scaling. Guard, clipping, optimizer, average,
evaluation and all else stay as they are, and so do the weights, bit for bit.
"""

from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from mlcli.engine.contract import Batch, Task
from mlcli.engine.meter import Meter
from mlcli.engine.runtime import Runtime, is_out_of_memory
from mlcli.engine.settings import Train
from mlcli.engine.terms import Divisors, Term, Terms
from mlcli.errors import ConfigError, OutOfMemoryError

WARM_UPS = 3
"""Times that a part is computed as usual first, for libraries to settle on kernels and memory: as many as PyTorch."""
MOST_GRAPHS = 8
"""Kinds of parts that are captured. A training has one or two: by size, by type where mixup comes and goes, and by
which layers are frozen."""
SWITCH_OFF = "train.cuda_graphs=false"

T = TypeVar("T")
Compute = Callable[[Batch, Meter], Terms]
"""Adds the gradients of a part to those that the parameters hold; returns its loss terms."""


def refuse_graphs(task: Task, train: Train, runtime: Runtime) -> None:
    """Raise ConfigError where `train.cuda_graphs` is asked for and cannot be had."""
    if not train.cuda_graphs:
        return
    reasons = {
        f"they are of NVIDIA GPUs, and the device is {runtime.device.type}": runtime.device.type != "cuda",
        "shapes inside this model depend on the data": not task.is_static,
        "each of this model's loss terms is divided by a count of its own": not task.counts_alike,
        "train.compile makes other steps of the same kernels": train.compile is True,
        "several processes train together": runtime.ranks.size > 1,
        "train.auto_microbatch could not free what a graph holds when memory runs out": train.auto_microbatch,
    }
    if found := next((reason for reason, holds in reasons.items() if holds), ""):
        raise ConfigError(f"steps cannot be CUDA graphs: {found}", where="train.cuda_graphs", fix=SWITCH_OFF)


class Graph(Protocol):
    """Work on the device that is described once and then done again and again."""

    def warm_up(self, work: Callable[[], T]) -> T:
        """Do the work as what is captured will be done, which is on a stream of its own."""

    def capture(self, work: Callable[[], T]) -> T:
        """Take note of the work without doing it. Its results are where each `replay` writes them."""

    def replay(self) -> None:
        """Do it, on whatever its inputs hold by now."""


class CudaGraph:
    """A `torch.cuda.CUDAGraph`, captured on a stream of its own."""

    def __init__(self) -> None:
        self._graph, self._stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()

    def warm_up(self, work: Callable[[], T]) -> T:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            done = work()
        torch.cuda.current_stream().wait_stream(self._stream)
        return done

    def capture(self, work: Callable[[], T]) -> T:
        # "thread_local": the thread that saves checkpoints may go on with its copies meanwhile.
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            return work()

    def replay(self) -> None:
        self._graph.replay()


class Captured:
    """The graph of one kind of part, with the memory it reads and writes.

    Args:
        graph: nothing captured yet.
        parameters: of the model.
    """

    def __init__(self, graph: Graph, parameters: list[nn.Parameter]) -> None:
        self._graph, self._parameters, self._calls = graph, parameters, 0
        self._batch: Batch | None = None
        self._terms: Terms = {}
        self._trained: list[nn.Parameter] = []
        self._gradients: list[Tensor] = []

    def __call__(self, compute: Compute, batch: Batch, meter: Meter) -> Terms:
        """Compute one part: the first few as usual, then by the graph."""
        self._calls += 1
        if self._calls <= WARM_UPS:
            return self._graph.warm_up(lambda: _detached(compute(batch, meter)))
        if self._batch is None:
            self._capture(compute, batch)
        assert self._batch is not None
        for memory, value in zip(self._batch.tensors(), batch.tensors(), strict=True):
            memory.copy_(value)
        # Gradients of the step's parts before this one: the graph writes its own, and adds to none.
        earlier = [None if one.grad is None else one.grad.clone() for one in self._trained]
        self._graph.replay()
        for parameter, gradient, before in zip(self._trained, self._gradients, earlier, strict=True):
            parameter.grad = gradient if before is None else gradient.add_(before)
        meter.mark("forward")  # both passes are one work now; all of its time counts as this one's
        meter.mark("backward")
        counts = {name: term.count for name, term in self._terms.items()}
        own = {name: count.clone() if isinstance(count, Tensor) else count for name, count in counts.items()}
        return {name: Term(term.mean.clone(), own[name]) for name, term in self._terms.items()}

    def _capture(self, compute: Compute, batch: Batch) -> None:
        """Raises ConfigError where what the model does cannot be captured, OutOfMemoryError."""
        self._batch = held = batch.each(torch.clone)
        before = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        try:
            self._terms = self._graph.capture(lambda: _detached(compute(held, Meter())))
        except RuntimeError as error:
            for one in (error, error.__context__):  # ending a capture that failed raises another one
                if isinstance(one, Exception) and is_out_of_memory(one):
                    raise OutOfMemoryError(
                        "a step captured as a CUDA graph does not fit into memory",
                        where="train.cuda_graphs", fix=f"{SWITCH_OFF}, or a smaller train.batch_size",
                    ) from error  # fmt: skip
            what = f"this model's step cannot be captured as a CUDA graph: {str(error).splitlines()[0]}"
            raise ConfigError(what, where="train.cuda_graphs", fix=SWITCH_OFF) from error
        learned = [(one, one.grad) for one in self._parameters if one.grad is not None]
        self._trained, self._gradients = [one for one, _ in learned], [gradient for _, gradient in learned]
        for parameter, gradient in zip(self._parameters, before, strict=True):
            parameter.grad = gradient


class StepGraphs:
    """Computes parts of steps by CUDA graphs, one for each kind of part.

    Parts of which somebody watches the layers, as at log points, are computed as usual: hooks are not captured.

    Args:
        model: whose gradients are computed.
        make_graph: makes an empty graph.
    """

    def __init__(self, model: nn.Module, make_graph: Callable[[], Graph] = CudaGraph) -> None:
        self._layers, self._parameters = list(model.modules()), list(model.parameters())
        self._make_graph = make_graph
        self._captured: dict[Hashable, Captured] = {}

    def __call__(self, compute: Compute, batch: Batch, meter: Meter, divisors: Divisors | None) -> Terms:
        """Compute one part. divisors: by which `compute` divides, which is captured as well."""
        shapes = tuple((tensor.shape, tensor.dtype, tensor.stride()) for tensor in batch.tensors())
        modes = tuple(layer.training for layer in self._layers)
        learn = tuple(parameter.requires_grad for parameter in self._parameters)
        kind = len(batch), shapes, modes, learn, divisors  # all that changes which kernels are launched
        is_watched = any(layer._forward_hooks or layer._forward_pre_hooks for layer in self._layers)
        if is_watched or (kind not in self._captured and len(self._captured) == MOST_GRAPHS):
            return _detached(compute(batch, meter))
        if kind not in self._captured:
            self._captured[kind] = Captured(self._make_graph(), self._parameters)
        return self._captured[kind](compute, batch, meter)


def kernel_by_kernel(compute: Compute, batch: Batch, meter: Meter, divisors: Divisors | None) -> Terms:
    """Compute one part as usual; in place of `StepGraphs` where no graphs are asked for."""
    return compute(batch, meter)


def _detached(terms: Terms) -> Terms:
    """The terms without what they were computed from: its nodes belong to a stream, and while they live, a capture on
    another one would fail."""
    return {name: Term(term.mean.detach(), term.count) for name, term in terms.items()}
