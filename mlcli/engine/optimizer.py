"""Step 3, find the best function: which parameters move how fast, and by which rule."""

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mlcli.engine import settings

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(
    model: nn.Module, config: settings.Optimizer, lr_scale: Callable[[str], float]
) -> list[dict[str, Any]]:
    """Parameters sorted by (learning rate share, whether weight decay applies).

    Matrices and kernels decay; biases and normalisation scales (one dimension or none) do not, unless asked for: decay
    on them brings no regularisation and can hurt (He et al. 2019, arXiv:1812.01187, section 3.1). Frozen parameters are
    in the groups as well: without a gradient the optimizer leaves them alone, and they can be thawed later. There are
    no more groups than needed, since each costs the optimizer another call.

    Returns groups with the keys params, lr_scale and decays (what weight decay is multiplied by), in order of first
    appearance in the model.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    all_alike = config.decay_norm_and_bias or config.weight_decay == 0
    faster = config.norm_bias_lr if isinstance(config, settings.Sgd) else 1.0
    norms = [layer for layer in model.modules() if isinstance(layer, NORMS)] if faster != 1 else []
    shifts = {id(layer.bias) for layer in norms}
    for name, parameter in model.named_parameters():
        factor = faster if id(parameter) in shifts else 1.0
        groups[factor * lr_scale(name), (all_alike or parameter.ndim >= 2) / factor].append(parameter)
    return [{"params": p, "lr_scale": scale, "decays": decays} for (scale, decays), p in groups.items()]


def without_compiler(kind: type[torch.optim.Optimizer]) -> type[Any]:
    """One of torch's optimizers that does not import torch._dynamo, the front half of torch.compile, which takes as
    long as importing torch itself.

    torch wraps these methods to hide them from torch.compile, and the wrappers import it when they are first called. No
    optimizer is compiled here, so what they wrap is called directly; `step` without gradients, as its wrapper would.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    plain: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    step: Any = torch.no_grad()(inspect.unwrap(kind.step))
    step.hooked = True  # or torch wraps it once more to name it in profiles: 10 us a step
    return type(kind.__name__, (kind,), {**plain, "step": step})


def build_optimizer(config: settings.Optimizer, groups: list[dict[str, Any]], *, fused: bool) -> torch.optim.Optimizer:
    """The optimizer of the YAML over these groups.

    fused: one kernel for all parameters, which the CPU and CUDA have. Not with a loss scaler: when the first step of
    all overflows, torch's fused SGD leaves its momentum uninitialised (torch/optim/sgd.py, `_fused_sgd`).
    """
    for group in groups:
        group["weight_decay"] = config.weight_decay * group.pop("decays")
    match config:
        case settings.Sgd():
            momentum = {"momentum": config.momentum, "nesterov": config.nesterov}
            return without_compiler(torch.optim.SGD)(groups, config.lr, **momentum, fused=fused)
        case settings.Adam():
            kind = torch.optim.AdamW if isinstance(config, settings.AdamW) else torch.optim.Adam
            betas = (config.beta1, config.beta2)
            return without_compiler(kind)(groups, config.lr, betas=betas, eps=config.eps, fused=fused)
        case settings.RmsProp():
            rest = {"alpha": config.alpha, "eps": config.eps, "momentum": config.momentum}
            return without_compiler(torch.optim.RMSprop)(groups, config.lr, **rest)


def give_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Start the momentum of parameters that may learn and have none yet, as after thawing, at 0: their first step is
    the same, and torch's fused SGD fails at a group of which only some have one."""
    for group in optimizer.param_groups if isinstance(optimizer, torch.optim.SGD) else ():
        for parameter in group["params"] if group["momentum"] and group["fused"] else ():
            if parameter.requires_grad and optimizer.state[parameter].get("momentum_buffer") is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


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


def kept_bytes(
    model: nn.Module, config: settings.TrainerSettings, lr_scale: Callable[[str], float]
) -> dict[str, float]:
    """Bytes that training keeps, without activations: weights (buffers included), gradients, optimizer, average.

    The optimizer's state is what a first step makes: it is taken on tensors without storage, so it costs nothing.
    """
    shadow = copy.deepcopy(model).to("meta")
    groups = parameter_groups(shadow, config.optimizer, lr_scale)
    optimizer = build_optimizer(config.optimizer, groups, fused=False)
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
        "average": weights * ((config.train.ema is not None) + (config.train.lookahead is not None)),
    }


def size_of(tensors: Sequence[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
