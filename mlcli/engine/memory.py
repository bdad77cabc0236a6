"""What training keeps in memory besides activations: weights, gradients, the optimizer's state, the average."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mlcli.engine.optimizer import build_optimizer, parameter_groups
from mlcli.engine.settings import TrainerSettings


def kept_bytes(model: nn.Module, settings: TrainerSettings, lr_scale: Callable[[str], float]) -> dict[str, float]:
    """Bytes by what takes them: weights (buffers included), gradients, optimizer, average.

    The optimizer's state is what a first step makes: it is taken on tensors without storage, so it costs nothing.
    """
    shadow = copy.deepcopy(model).to("meta")
    groups = parameter_groups(shadow, settings.optimizer, lr_scale)
    optimizer = build_optimizer(settings.optimizer, groups, fused=False)
    trained = [parameter for parameter in shadow.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
    optimizer.step()
    state = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    weights = size_of([*model.parameters(), *model.buffers()])
    return {
        "weights": weights,
        "gradients": size_of(trained),
        "optimizer": size_of(state),
        "average": weights if settings.train.ema else 0,
    }


def size_of(tensors: Sequence[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
