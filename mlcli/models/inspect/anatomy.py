"""A model taken apart: what each layer computes, costs and sees, gathered in one forward pass of a copy.

The pass is watched from below: every tensor operation is seen as it is dispatched, and the innermost module being
called is known by torch's module hooks. So branches, functional calls and models of any library come out right without
their cooperation. FLOPs are those of `torch.utils.flop_counter` (a multiply-add is two; convolutions, matrix products
and attention count, elementwise work does not). Memory is measured: the tensors autograd keeps for the backward pass.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from mlcli.models.inspect.collapse import Collapse, judge_collapses
from mlcli.models.inspect.dataflow import Dataflow
from mlcli.models.inspect.layer import OWN, Layer, Sides, with_window


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
    watch = _Watch(model, images, batch_size, pixels=pixels)
    with watch, torch.autograd.graph.saved_tensors_hooks(watch.keep, _never):
        forward(model)
    watch.remove_hooks()
    tensors = list(model.parameters())
    return Anatomy(
        layers=tuple(watch.layers),
        collapses=judge_collapses(watch.flow.touching),
        kinds={_short(name): type(module).__name__ for name, module in model.named_modules()},
        uncalled=tuple(_uncalled(model, watch.counted)),
        parameters=sum(t.numel() for t in tensors),
        trainable=sum(t.numel() for t in tensors if t.requires_grad),
        flops=sum(layer.flops for layer in watch.layers) + watch.outside.flops,
        saved_bytes=sum(layer.saved_bytes for layer in watch.layers) + watch.outside.saved_bytes,
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
        self._hooks: list[Any] = []
        for name, module in model.named_modules():
            self._hooks.append(module.register_forward_pre_hook(self._enter(_short(name))))
            self._hooks.append(module.register_forward_hook(self._leave))

    def remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
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

    def _enter(self, name: str) -> Callable:
        def enter(module: nn.Module, inputs: tuple) -> None:
            first = _first_tensor(inputs)
            self._inside.append(_Call(name, self._shape(first)))

        return enter

    def _leave(self, module: nn.Module, inputs: tuple, output: Any) -> None:
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
        self.layers.append(with_window(layer, module) if innermost else replace(layer, kind=OWN))

    def _shape(self, tensor: Tensor | None) -> Sides:
        """Of one sample; rows that are several per sample (regions of interest, tokens) come first."""
        if tensor is None or tensor.ndim == 0:
            return ()
        per_sample, rest = divmod(tensor.shape[0], self.samples)
        several = (per_sample,) if rest == 0 and per_sample > 1 else ()
        return (*several, *tensor.shape[1:])


def _uncalled(model: nn.Module, counted: set[int]) -> Iterable[str]:
    for name, module in model.named_modules():
        if any(id(tensor) not in counted for tensor in module.parameters(recurse=False)):
            yield _short(name)


def _first_tensor(values: Any) -> Tensor | None:
    return next((leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)), None)


def _short(name: str) -> str:
    return "model" if name in ("", "net") else name.removeprefix("net.")


def _never(_: Any) -> Tensor:
    raise AssertionError("no backward pass follows")
