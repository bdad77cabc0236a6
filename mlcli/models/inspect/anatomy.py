"""A model taken apart: what each layer computes, costs and sees, gathered in one forward pass of a copy.

The pass is watched from below: every tensor operation is seen as it is dispatched, and the innermost module being
called is known by torch's module hooks. So branches, functional calls and models of any library come out right without
their cooperation. FLOPs are those of `torch.utils.flop_counter` (a multiply-add is two; convolutions, matrix products
and attention count, elementwise work does not). Memory is measured: the tensors autograd keeps for the backward pass.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from mlcli.engine.hooks import watch
from mlcli.models.inspect.dataflow import Collapse, Dataflow, Field, judge_collapses

Sides = tuple[int, ...]
OWN = "(own)"
"""Kind of the row for what a module with children has or computes before it calls them, such as a class token."""


@dataclass(frozen=True)
class Layer:
    """One call of an innermost module.

    name: of the module, as in `named_modules` without the `net.` of `Normalized`.
    kind: its class.
    input_shape, output_shape: of one sample, without the batch; () if it takes or gives no tensor.
    kernel, stride, padding, dilation: of a window, in pixels; padding may be the word "same". None without a window.
    groups: of a convolution's channels; 1 otherwise.
    neurons: outputs of one sample, where weights make them: convolutions and linear layers; 0 otherwise.
    parameters, trainable: numbers in its tensors, and those that learn; 0 in a second call of the same module.
    flops: of one sample, forward only.
    field: what one output position sees; None for data without pixels and where it cannot be known.
    saved_bytes: kept for the backward pass, for the whole batch.
    """

    name: str
    kind: str
    input_shape: Sides = ()
    output_shape: Sides = ()
    kernel: Sides | None = None
    stride: Sides | None = None
    padding: Sides | str | None = None
    dilation: Sides | None = None
    ceil: bool = False
    groups: int = 1
    neurons: int = 0
    parameters: int = 0
    trainable: int = 0
    flops: float = 0.0
    field: Field | None = None
    saved_bytes: float = 0.0


@dataclass(frozen=True)
class Anatomy:
    """All layers in the order of their calls, and what belongs to none of them.

    parameters, trainable: of the whole model; shared ones count once.
    uncalled: modules with parameters that the pass did not reach.
    kinds: class of each module by name, for grouping.
    flops: of one sample. saved_bytes: of the whole batch, the loss included.
    measured, batch_size: samples in the pass, and those that bytes were scaled to.
    """

    layers: tuple[Layer, ...]
    collapses: tuple[Collapse, ...]
    kinds: dict[str, str]
    uncalled: tuple[str, ...]
    parameters: int
    trainable: int
    flops: float
    saved_bytes: float
    measured: int
    batch_size: int

    def plain(self) -> dict[str, Any]:
        """Every single layer as JSON's types."""
        layers = [
            {
                **{name: value for name, value in vars(layer).items() if name not in ("ceil", "field")},
                "receptive_field": (layer.field.text() or None) if layer.field else None,
                "saved_bytes": round(layer.saved_bytes),
            }
            for layer in self.layers
        ]
        return {
            "layers": layers,
            "collapses": [vars(collapse) for collapse in self.collapses],
            "parameters": self.parameters,
            "trainable": self.trainable,
            "uncalled": self.uncalled,
            "flops_per_sample": self.flops,
            "saved_bytes": round(self.saved_bytes),
            "samples_at_once": self.batch_size,
            "samples_measured": self.measured,
        }


def take_apart(
    model: nn.Module, forward: Callable[[nn.Module], Any], images: Tensor, *, batch_size: int, pixels: bool
) -> Anatomy:
    """Watch one forward pass.

    Args:
        model: in the mode it trains in; it is copied and left as it was.
        forward: what to do with the copy, such as computing the loss of a batch.
        images: what the pass starts from, `Batch.inputs`, [B, ...].
        batch_size: samples that the memory is wanted for; it is measured with B and scaled.
        pixels: whether the inputs are images, so that receptive fields mean something.
    """
    model = copy.deepcopy(model)
    seen = _Watch(model, images, batch_size, pixels=pixels)
    # What is kept for the backward pass is counted only: none will come, so nothing is taken out again.
    with seen, seen.hooks, torch.autograd.graph.saved_tensors_hooks(seen.keep, lambda kept: kept):
        forward(model)
    tensors = list(model.parameters())
    return Anatomy(
        layers=tuple(seen.layers),
        collapses=judge_collapses(seen.flow.touching),
        kinds={_short(name): type(module).__name__ for name, module in model.named_modules()},
        uncalled=tuple(
            _short(name)
            for name, module in model.named_modules()
            if any(id(tensor) not in seen.counted for tensor in module.parameters(recurse=False))
        ),
        parameters=sum(t.numel() for t in tensors),
        trainable=sum(t.numel() for t in tensors if t.requires_grad),
        flops=sum(layer.flops for layer in seen.layers) + seen.outside.flops,
        saved_bytes=sum(layer.saved_bytes for layer in seen.layers) + seen.outside.saved_bytes,
        measured=len(images),
        batch_size=batch_size,
    )


@dataclass
class _Call:
    """A module being called, and what was spent in it before it called another."""

    name: str
    input_shape: Sides = ()
    has_called: bool = False
    flops: float = 0.0
    saved_bytes: float = 0.0


class _Watch(TorchDispatchMode):
    """Sees every tensor operation and books what it costs on the module being called."""

    def __init__(self, model: nn.Module, inputs: Tensor, batch_size: int, *, pixels: bool) -> None:
        super().__init__()
        self.samples, self.scale = len(inputs), batch_size / len(inputs)
        self.flow = Dataflow(inputs, [*model.parameters(), *model.buffers()], pixels=pixels)
        self.layers: list[Layer] = []
        self.outside, self.counted = _Call(""), set[int]()
        self._inside: list[_Call] = []
        self.hooks = watch(model.named_modules(), before=self._enter, after=self._leave)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in flop_registry:
            flops = flop_registry[packet](*args, **kwargs, out_val=out)
            self._spend(flops=flops / self.samples)
        layer = self._inside[-1].name if self._inside else None
        self.flow.follow(func._schema.name.removeprefix("aten::"), args, kwargs, out, layer)
        return out

    def keep(self, tensor: Tensor) -> None:
        """Autograd asks to keep a tensor for the backward pass. It is counted and not kept: none will come."""
        self._spend(saved_bytes=self.flow.newly_kept(tensor, self.scale))

    def _spend(self, *, flops: float = 0.0, saved_bytes: float = 0.0) -> None:
        """Book on the module being called; what a module does after its last child, on that child."""
        call = self._inside[-1] if self._inside else None
        if call is not None and call.has_called:
            last = self.layers[-1]
            self.layers[-1] = replace(last, flops=last.flops + flops, saved_bytes=last.saved_bytes + saved_bytes)
            return
        spent = call or self.outside
        spent.flops += flops
        spent.saved_bytes += saved_bytes

    def _enter(self, name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._inside.append(_Call(_short(name), self._shape(_first_tensor(inputs))))

    def _leave(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        call = self._inside.pop()
        innermost = not call.has_called
        if self._inside:
            self._inside[-1].has_called = True
        new = [t for t in module.parameters(recurse=innermost) if id(t) not in self.counted]
        self.counted.update(map(id, new))
        if not innermost and not new and not call.flops and not call.saved_bytes:
            return
        result = _first_tensor(output)
        layer = Layer(
            call.name,
            type(module).__name__,
            call.input_shape,
            self._shape(result),
            parameters=sum(t.numel() for t in new),
            trainable=sum(t.numel() for t in new if t.requires_grad),
            flops=call.flops,
            field=self.flow.field_of(result) if result is not None else None,
            saved_bytes=call.saved_bytes,
        )
        self.layers.append(_with_window(layer, module) if innermost else replace(layer, kind=OWN))

    def _shape(self, tensor: Tensor | None) -> Sides:
        """Of one sample; rows that are several per sample (regions of interest, tokens) come first."""
        if tensor is None or tensor.ndim == 0:
            return ()
        per_sample, rest = divmod(tensor.shape[0], self.samples)
        several = (per_sample,) if rest == 0 and per_sample > 1 else ()
        return (*several, *tensor.shape[1:])


def _with_window(layer: Layer, module: nn.Module) -> Layer:
    """The layer with the kernel it slides over the image, or the neurons it has."""
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        layer = replace(layer, neurons=prod(layer.output_shape), groups=getattr(module, "groups", 1))
    if not hasattr(module, "kernel_size"):
        return layer
    dimensions = max(1, len(layer.output_shape) - 1)
    padding = getattr(module, "padding", 0)
    return replace(
        layer,
        kernel=_sides(module.kernel_size, dimensions),
        stride=_sides(module.stride, dimensions),
        padding=padding if isinstance(padding, str) else _sides(padding, dimensions),
        dilation=_sides(getattr(module, "dilation", 1), dimensions),
        ceil=getattr(module, "ceil_mode", False),
    )


def _sides(value: Any, dimensions: int) -> Sides:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * dimensions


def _first_tensor(values: Any) -> Tensor | None:
    return next((leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)), None)


def _short(name: str) -> str:
    return "model" if name in ("", "net") else name.removeprefix("net.")
