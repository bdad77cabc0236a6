"""The learning rate as a pure function of the step. Only `plateau` remembers something: what it has been shown."""

import math
from collections.abc import Callable
from typing import Any

from mlcli.engine import settings
from mlcli.engine.evaluate import SelectBy


class LearningRate:
    """Answers which learning rate a step trains with.

    Args:
        config: the schedule section.
        peak: the optimizer's learning rate.
        steps_per_epoch, epochs: the length of the training in optimizer steps and epochs.
        select_by: the validation metric that `plateau` looks at.
    """

    def __init__(
        self, config: settings.Schedule, peak: float, steps_per_epoch: int, epochs: int, select_by: SelectBy
    ) -> None:
        self.peak = peak
        self.total_steps = steps_per_epoch * epochs
        self.warmup_steps = min(round(config.warmup_epochs * steps_per_epoch), self.total_steps)
        self.plateau = PlateauMemory(config, select_by) if isinstance(config, settings.Plateau) else None
        self.curve = self._curve(config, epochs)

    def lr_at(self, step: int) -> float:
        """The learning rate of optimizer step `step`, counted from 0.

        During warm-up `(step + 1) / (warmup_steps + 1)` of where the curve starts; then the curve over the steps left,
        reaching its end with the last step.
        """
        if step < self.warmup_steps:
            return self.peak * self.curve(0.0) * (step + 1) / (self.warmup_steps + 1)
        return self.peak * self.curve((step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps - 1))

    def observe(self, value: float) -> None:
        """Take note of the watched metric after an evaluation."""
        if self.plateau:
            self.plateau.observe(value)

    def state_dict(self) -> dict[str, Any]:
        return self.plateau.state_dict() if self.plateau else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.plateau:
            self.plateau.load_state_dict(state)

    def _curve(self, config: settings.Schedule, epochs: int) -> Callable[[float], float]:
        """Share of the peak as a function of progress, which runs from 0 to 1 after warm-up."""
        match config:
            case settings.Constant():
                return lambda progress: 1.0
            case settings.Step(milestones=milestones, factor=factor):
                shares = [m if milestones[-1] < 1 else m / epochs for m in milestones]
                # Milestones count from the very start, progress from the end of warm-up.
                start = self.warmup_steps / max(1, self.total_steps)
                return lambda progress: factor ** sum(start + progress * (1 - start) >= share for share in shares)
            case settings.Cosine(final=final):
                return lambda progress: _half_cosine(1.0, final, progress)
            case settings.OneCycle(peak_at=peak_at, start=first, final=final):

                def between(first: float, last: float, progress: float) -> float:
                    if config.curve == "cosine":
                        return _half_cosine(first, last, progress)
                    return first + (last - first) * min(progress, 1.0)

                return lambda progress: (
                    between(first, 1.0, progress / peak_at)
                    if progress < peak_at
                    else between(1.0, final, (progress - peak_at) / (1 - peak_at))
                )
            case settings.Polynomial(power=power, final=final):
                return lambda progress: final + (1 - final) * (1 - progress) ** power
            case settings.Plateau(final=final):
                assert self.plateau is not None
                memory = self.plateau
                return lambda progress: max(memory.factor, final)


def _half_cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


class PlateauMemory:
    """State of `plateau`: its best value, how long ago that was, and the factor reached."""

    def __init__(self, config: settings.Plateau, select_by: SelectBy) -> None:
        self.config, self.select_by = config, select_by
        self.factor, self.best, self.stale = 1.0, None, 0  # type: float, float | None, int

    def observe(self, value: float) -> None:
        if self.select_by.improves(value, self.best, self.config.min_delta):
            self.best, self.stale = value, 0
            return
        self.stale += 1
        if self.stale >= self.config.patience:
            self.factor, self.stale = self.factor * self.config.factor, 0

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor, "best": self.best, "stale": self.stale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.factor, self.best, self.stale = state["factor"], state["best"], state["stale"]
