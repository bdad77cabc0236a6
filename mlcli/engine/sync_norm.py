"""Batch normalisation over the samples of all ranks (Ioffe & Szegedy 2015), on a CPU as on a GPU.

torch's SyncBatchNorm refuses a CPU. Mean and variance of a step's whole batch follow from each rank's own, by one sum
in float64; so do the two sums that the gradient needs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SumOverRanks = Callable[[Tensor], Tensor]


class _Normalise(torch.autograd.Function):
    """x [N, C, ...], weight [C] or None -> x normalised and times the weight, float32, mean and variance float64 [C],
    and how many values of a channel they are of, []."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float, over_ranks: SumOverRanks) -> Any:
        dims, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        values = x.float()
        variance, mean = (value.double() for value in torch.var_mean(values, dims, correction=0))
        count = values.numel() // values.shape[1]
        sums = over_ranks(torch.cat([count * mean, count * (variance + mean.square()), mean.new_tensor([count])]))
        mean, square = (sums[:-1] / sums[-1]).view(2, -1)
        variance = (square - mean.square()).clamp(min=0)
        scale = (variance + eps).rsqrt().float()
        normalised = (values - mean.float().view(shape)) * scale.view(shape)
        ctx.save_for_backward(normalised, scale, weight, sums[-1])
        ctx.over_ranks, ctx.dims, ctx.shape, ctx.dtype = over_ranks, dims, shape, x.dtype
        statistics = mean, variance, sums[-1].clone()
        ctx.mark_non_differentiable(*statistics)
        return normalised if weight is None else normalised * weight.view(shape), *statistics

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> Any:
        normalised, scale, weight, count = ctx.saved_tensors
        for_weight = None if weight is None else (gradient * normalised).sum(ctx.dims)
        if weight is not None:
            gradient = gradient * weight.view(ctx.shape)
        sums = torch.cat([gradient.sum(ctx.dims), (gradient * normalised).sum(ctx.dims)]).double()
        mean, along = (ctx.over_ranks(sums) / count).float().view(2, -1)
        inner = gradient - mean.view(ctx.shape) - normalised * along.view(ctx.shape)
        return (inner * scale.view(ctx.shape)).to(ctx.dtype), for_weight, None, None


class _Synced(nn.modules.batchnorm._BatchNorm):
    """What the layers below do instead of torch's forward pass. In evaluation mode it is torch's.

    over_ranks: sums a tensor over the ranks that train together.
    """

    over_ranks: SumOverRanks

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        out, mean, variance, count = _Normalise.apply(x, self.weight, self.eps, self.over_ranks)
        if self.bias is not None:
            out = out + self.bias.view([1, -1, *[1] * (x.ndim - 2)])
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), share)
        return out.to(x.dtype)


class SyncedBatchNorm1d(_Synced, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the samples of all ranks."""


class SyncedBatchNorm2d(_Synced, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the samples of all ranks."""


_SYNCED: dict[type, type] = {nn.BatchNorm1d: SyncedBatchNorm1d, nn.BatchNorm2d: SyncedBatchNorm2d}
_PLAIN = {synced: plain for plain, synced in _SYNCED.items()}


def synchronise(model: nn.Module, over_ranks: SumOverRanks) -> None:
    """Have the batch normalisations of a model use the samples of all ranks; its weights and their names stay."""
    for layer in model.modules():
        if type(layer) in _SYNCED:
            layer.__class__ = _SYNCED[type(layer)]
            vars(layer)["over_ranks"] = over_ranks


def is_synchronised(model: nn.Module) -> bool:
    """Whether a model normalises over the samples of all ranks."""
    return any(isinstance(layer, _Synced) for layer in model.modules())


def separate(model: nn.Module) -> None:
    """Undo `synchronise`, for passes that the other ranks do not take."""
    for layer in model.modules():
        if isinstance(layer, _Synced):
            layer.__class__ = _PLAIN[type(layer)]
