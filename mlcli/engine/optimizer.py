"""Step 3, find the best function: which parameters move how fast, and by which rule."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from mlcli.engine import settings


def parameter_groups(
    model: nn.Module, config: settings.Optimizer, lr_scale: Callable[[str], float]
) -> list[dict[str, Any]]:
    """Parameters sorted by (learning rate share, whether weight decay applies).

    Matrices and kernels decay; biases and normalisation scales (one dimension or none) do not, unless asked for: decay
    on them brings no regularisation and can hurt (He et al. 2019, arXiv:1812.01187, section 3.1). Frozen parameters are
    in the groups as well: without a gradient the optimizer leaves them alone, and they can be thawed later. Nothing is
    told apart that would be treated alike: each group costs the optimizer another call.

    Returns groups with the keys params, lr_scale and decays, in order of first appearance in the model.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    all_alike = config.decay_norm_and_bias or config.weight_decay == 0
    for name, parameter in model.named_parameters():
        groups[lr_scale(name), all_alike or parameter.ndim >= 2].append(parameter)
    return [{"params": p, "lr_scale": scale, "decays": decays} for (scale, decays), p in groups.items()]


def build_optimizer(config: settings.Optimizer, groups: list[dict[str, Any]], *, fused: bool) -> torch.optim.Optimizer:
    """The optimizer of the YAML over these groups.

    fused: one kernel for all parameters, which the CPU and CUDA have. Not with a loss scaler: when the first step of
    all overflows, torch's fused SGD leaves its momentum uninitialised (torch/optim/sgd.py, `_fused_sgd`).
    """
    for group in groups:
        group["weight_decay"] = config.weight_decay if group.pop("decays") else 0.0
    match config:
        case settings.Sgd():
            return torch.optim.SGD(groups, config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
        case settings.AdamW():  # before Adam, which it extends
            betas = (config.beta1, config.beta2)
            return torch.optim.AdamW(groups, config.lr, betas=betas, eps=config.eps, fused=fused)
        case settings.Adam():
            betas = (config.beta1, config.beta2)
            return torch.optim.Adam(groups, config.lr, betas=betas, eps=config.eps, fused=fused)
        case settings.RmsProp():
            return torch.optim.RMSprop(groups, config.lr, alpha=config.alpha, eps=config.eps, momentum=config.momentum)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def clip_gradients(parameters: Iterable[nn.Parameter], config: settings.Optimizer) -> None:
    """Bound the gradients as configured: by their common norm (Pascanu et al. 2013), one by one, or not at all."""
    if config.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)
    elif config.clip_value is not None:
        nn.utils.clip_grad_value_(parameters, config.clip_value)
