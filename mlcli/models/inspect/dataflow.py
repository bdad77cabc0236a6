"""What happens to a model's input on its way through, tensor operation by operation.

For each piece of memory that depends on the input it is known what of the image it sees, which layer it comes from but
for affine changes, and whether autograd keeps it. Memory is told apart by its storage, so views and operations in place
come out right.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from mlcli.models.inspect.collapse import Weighted, weighted_by
from mlcli.models.inspect.receptive import Field, field_after

# Affine in their first tensor, so that a linear layer before them and one behind them still make one linear layer.
_AFFINE = {
    *("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update"),
    *("avg_pool2d", "_adaptive_avg_pool2d", "mean", "sum", "upsample_nearest2d", "upsample_bilinear2d"),
    *("constant_pad_nd", "clone", "_to_copy", "neg", "add", "sub", "mul", "div", "addcmul", "native_dropout"),
}
_FRESH = ("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_")


@dataclass
class Mark:
    """What is known of the values in one piece of memory.

    last: the layer whose output this is but for affine changes; None once something nonlinear, or a second branch, came
    in between. kept: whether autograd keeps it already. noise: of the size of the data, but not made from them, such as
    a dropout mask.
    """

    field: Field | None
    last: Weighted | None = None
    kept: bool = False
    noise: bool = False


class Dataflow:
    """Follows everything that is computed from the input.

    Args:
        inputs: [B, ...].
        own: parameters and buffers, which autograd keeps at no cost.
        pixels: whether the inputs are images.

    touching: pairs of layers with nothing nonlinear between them, in the order of their meeting.
    """

    def __init__(self, inputs: Tensor, own: list[Tensor], *, pixels: bool) -> None:
        self.samples = len(inputs)
        self.touching: list[tuple[Weighted, Weighted]] = []
        seen = Field(positions=prod(inputs.shape[2:])) if pixels else None
        self._marks = {_memory(inputs): Mark(seen, kept=True)}  # the batch is counted elsewhere
        self._own = {_memory(tensor) for tensor in own}

    def field_of(self, tensor: Tensor) -> Field | None:
        mark = self._marks.get(_memory(tensor))
        return mark.field if mark else None

    def newly_kept(self, tensor: Tensor, scale: float) -> float:
        """Bytes that autograd keeps anew with this tensor, `scale` times as many where they grow with the batch."""
        memory = _memory(tensor)
        mark = self._marks.get(memory)
        if memory in self._own or (mark is not None and mark.kept):
            return 0.0
        if mark is not None:
            mark.kept = True
        grows = mark is not None and tensor.ndim > 1  # statistics of a batch norm are as many for any batch
        return tensor.untyped_storage().nbytes() * (scale if grows else 1)

    def follow(self, op: str, args: tuple, kwargs: dict[str, Any], out: Any, layer: str | None) -> None:
        """Mark the results of an operation by what is known of its inputs.

        op: ATen's name. layer: the module it happens in, None outside of all.
        """
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        marked = [(tensor, self._marks[_memory(tensor)]) for tensor in given if _memory(tensor) in self._marks]
        data = [(tensor, mark) for tensor, mark in marked if not mark.noise]
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        memories = {_memory(tensor) for tensor in given}
        in_place, op = op.endswith("_"), op.rstrip("_")
        if not data or op.startswith(_FRESH):
            for result in results:
                if _memory(result) in memories:
                    continue
                self._marks.pop(_memory(result), None)  # freed by something that was marked, and in use again
                if marked:
                    self._marks[_memory(result)] = Mark(None, noise=True)
            return
        last = self._last(op, args, data, layer)
        for result in results:
            memory = _memory(result)
            if memory in memories and not in_place:  # a view: the same values
                continue
            seen = field_after(op, args, result, [(tensor, mark.field) for tensor, mark in data], self.samples)
            kept = memory in memories and memory in self._marks and self._marks[memory].kept
            self._marks[memory] = Mark(seen, last, kept)

    def _last(self, op: str, args: tuple, data: list[tuple[Tensor, Mark]], layer: str | None) -> Weighted | None:
        """The layer an operation's output comes from by affine changes alone; notes two layers that touch."""
        before = data[0][1].last if len(data) == 1 else None
        here = weighted_by(op, args, layer) if layer is not None and len(data) == 1 else None
        if here is not None:
            if before is not None and before.name != here.name:
                self.touching.append((before, here))
            return here
        return before if (op in _AFFINE and args and args[0] is data[0][0]) or op == "addcmul" else None


def _memory(tensor: Tensor) -> int:
    """Tells pieces of memory apart; views share theirs."""
    return tensor.untyped_storage()._cdata
