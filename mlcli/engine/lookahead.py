"""Slow weights that follow the trained ones, which go back to them every few steps."""

import torch
from torch import Tensor, nn

from mlcli.engine.settings import Lookahead


class SlowWeights:
    """The slow weights of Lookahead (Zhang et al. 2019, arXiv:1907.08610), with the shares of airbench94 (Jordan 2024).

    They begin as a copy of a model's parameters and floating-point buffers. Every few steps they move towards these by
    `1 - decay ** every_steps * progress ** power`, and these become what they are; at an epoch's end these do as well.
    Without a config nothing happens.

    Args:
        steps_per_epoch, total_steps: of the training.
    """

    def __init__(self, model: nn.Module, config: Lookahead | None, steps_per_epoch: int, total_steps: int) -> None:
        self._config, self._steps_per_epoch, self._total_steps = config, steps_per_epoch, total_steps
        live = {n: t for n, t in model.state_dict().items() if t.is_floating_point()} if config else {}
        self._names = list(live)
        self._live = list(live.values())  # share memory with the model
        self._slow = [t.clone() for t in self._live]
        self._has_begun = False

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take note of optimizer step `step`, counted from 0, which was done."""
        if self._config is None or step < (self._config.start_epoch - 1) * self._steps_per_epoch:
            return
        done, every = step + 1, self._config.every_steps
        if done % every == 0 and self._has_begun:
            kept = self._config.decay**every * (done / self._total_steps) ** self._config.power
            torch._foreach_lerp_(self._slow, self._live, 1 - kept)
            torch._foreach_copy_(self._live, self._slow)
        elif done % every == 0:
            torch._foreach_copy_(self._slow, self._live)
            self._has_begun = True
        elif done % self._steps_per_epoch == 0 and self._has_begun:
            torch._foreach_copy_(self._live, self._slow)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the slow weights by name; empty before there are any."""
        return dict(zip(self._names, self._slow, strict=True)) if self._has_begun else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` returned. Raises KeyError or ValueError for slow weights of another model."""
        self._has_begun = bool(state)
        for name, slow in zip(self._names, self._slow, strict=True):
            if self._has_begun:
                if state[name].shape != slow.shape:
                    raise ValueError(f"its slow {name} is not as it should be")
                slow.copy_(state[name])
