"""An exponential moving average of the weights (Polyak & Juditsky 1992; Tarvainen & Valpola 2017)."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mlcli.engine.settings import Ema


class WeightAverage:
    """Keeps the average of a model's parameters and floating-point buffers; without a config it does nothing."""

    def __init__(self, model: nn.Module, config: Ema | None) -> None:
        self.decay = config.decay if config else None
        live = {n: t for n, t in model.state_dict().items() if t.is_floating_point()} if config else {}
        self.names = list(live)
        self.live: list[Tensor] = list(live.values())  # share memory with the model
        self.average = [t.clone() for t in self.live]

    def update(self, step: int) -> None:
        """Move the average towards the weights after optimizer step `step` (from 0)."""
        if self.decay is not None:
            self._move(min(self.decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def _move(self, decay: float) -> None:
        torch._foreach_lerp_(self.average, self.live, 1 - decay)

    @contextlib.contextmanager
    @torch.no_grad()
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """Within this context the model's weights are the average; afterwards they are bit for bit what they were."""
        kept = [t.clone() for t in self.live]
        self._write(self.average)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for tensor, value in zip(self.live, values, strict=True):
            tensor.copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.average, strict=True))

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, tensor in zip(self.names, self.average, strict=True):
            tensor.copy_(state[name])
