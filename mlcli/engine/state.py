"""Everything that changes while training: one object, saved and restored as a whole."""

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from pydantic import NonNegativeInt, TypeAdapter
from torch import Tensor, nn

from mlcli.engine.contract import Feed, Task
from mlcli.engine.evaluate import SelectBy
from mlcli.engine.graphs import refuse_graphs
from mlcli.engine.lookahead import SlowWeights
from mlcli.engine.optimizer import build_optimizer, parameter_groups
from mlcli.engine.runtime import Runtime
from mlcli.engine.schedule import LearningRate
from mlcli.engine.settings import Ema, TrainerSettings
from mlcli.engine.terms import MeanTerms
from mlcli.errors import CheckpointError


@dataclass
class Progress:
    """Progress of a run. Steps and epochs count from 0; `step` is the number of optimizer steps done.

    judged_step: the step at whose epoch's end the model was last judged; best_*: the best evaluation so far;
    reference: the value early stopping compares with, and stale: evaluations without improvement on it; *_loss: the
    loss of that evaluation, infinite for NaN, None where the task has none or version 0.1.0 saved the checkpoint;
    skipped: steps that fp16 overflow left out, for which schedule and average do not advance;
    halvings: how often micro-batches were halved because memory ran out.
    """

    step: NonNegativeInt = 0
    judged_step: NonNegativeInt = 0
    best_value: float | None = None
    best_step: NonNegativeInt = 0
    best_epoch: NonNegativeInt = 0
    best_loss: float | None = None
    reference: float | None = None
    reference_loss: float | None = None
    stale: NonNegativeInt = 0
    skipped: NonNegativeInt = 0
    halvings: NonNegativeInt = 0


class WeightAverage:
    """An exponential moving average of the weights (Polyak & Juditsky 1992; Tarvainen & Valpola 2017).

    Keeps that of a model's parameters and floating-point buffers; without a config it does nothing.
    """

    def __init__(self, model: nn.Module, config: Ema | None) -> None:
        self.decay = config.decay if config else None
        live = {n: t for n, t in model.state_dict().items() if t.is_floating_point()} if config else {}
        self.names = list(live)
        self.live: list[Tensor] = list(live.values())  # share memory with the model
        self.average = [t.clone() for t in self.live]

    def update(self, step: int) -> None:
        """Move the average towards the weights after optimizer step `step` (from 0)."""
        if self.decay is not None:
            decay = min(self.decay, (1 + step) / (10 + step))
            with torch.no_grad():
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


@dataclass
class TrainingState:
    """Model, optimizer, scaler, average, schedule and progress, built together and saved together.

    `model` is what is saved, counted and clipped; `net` is what is called: the same, or its compiled form.
    """

    model: nn.Module
    net: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: WeightAverage
    slow: SlowWeights
    schedule: LearningRate
    device: torch.device
    progress: Progress = field(default_factory=Progress)
    window: MeanTerms = field(default_factory=MeanTerms)
    """Loss since the last log point."""
    epoch_loss: MeanTerms = field(default_factory=MeanTerms)
    """Loss since the start of the epoch, up to the last log point."""

    @classmethod
    def start(
        cls, task: Task, feed: Feed, settings: TrainerSettings, runtime: Runtime, select_by: SelectBy,
        model: nn.Module | None = None,
    ) -> "TrainingState":  # fmt: skip
        """The state before the first step. model: a copy to train in place of the task's own.

        Raises ConfigError where steps are to be CUDA graphs and cannot be.
        """
        refuse_graphs(task, settings.train, runtime)
        model = runtime.place(model or task.model)
        groups = parameter_groups(model, settings.optimizer, task.lr_scale)
        scaler = runtime.scaler()
        fused = runtime.device.type in ("cpu", "cuda") and not scaler.is_enabled()
        optimizer = build_optimizer(settings.optimizer, groups, fused=fused)
        peak, epochs = settings.optimizer.lr, settings.train.epochs
        schedule = LearningRate(settings.schedule, peak, feed.steps_per_epoch, epochs, select_by)
        return cls(
            model=model,
            net=runtime.callable_form(model),
            optimizer=optimizer,
            scaler=scaler,
            ema=WeightAverage(model, settings.train.ema),
            slow=SlowWeights(model, settings.train.lookahead, feed.steps_per_epoch, schedule.total_steps),
            schedule=schedule,
            device=runtime.device,
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only; restoring it makes the run go on as if it had never stopped."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state_dict(),
            "slow": self.slow.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": asdict(self.progress),
            "window": self.window.state_dict(),
            "epoch_loss": self.epoch_loss.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Raises CheckpointError if the checkpoint is of another model or optimizer."""
        try:
            refuse_other_shape(saved, self.state_dict())
            refuse_odd_steps(self.optimizer, saved["optimizer"]["state"])
            self.model.load_state_dict(saved["model"])
            fresh = [dict(group) for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(saved["optimizer"])
            refuse_odd_settings(self.optimizer.param_groups, fresh)
            self.scaler.load_state_dict(saved["scaler"])
            self.ema.load_state_dict(saved["ema"])
            self.slow.load_state_dict(saved.get("slow", {}))  # 0.1.0 had none
            self.schedule.load_state_dict(saved["schedule"])
            progress = {"best_loss": None, "reference_loss": None, **saved["progress"]}  # 0.1.0 did not save them
            if lacking := [entry.name for entry in fields(Progress) if entry.name not in progress]:
                raise ValueError(f"progress lacks {', '.join(lacking)}")
            self.progress = TypeAdapter(Progress).validate_python(progress)
            self.window.load_state_dict(saved["window"], self.device)
            self.epoch_loss.load_state_dict(saved["epoch_loss"], self.device)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
            reason = str(error).strip().split("\n")[0]
            raise CheckpointError(f"the checkpoint does not fit this model and config: {reason}",
                                  fix="resume with the config of the run, or start a new run") from error  # fmt: skip


def refuse_other_shape(saved: Any, fresh: Any, at: str = "") -> None:
    """Raise ValueError unless saved state is shaped as that of a fresh start: the same entries, kinds and shapes.

    Where the fresh one has nothing (None, an empty dict), what is saved may be anything of that kind.
    """
    if isinstance(fresh, dict) and isinstance(saved, dict):
        for key, value in fresh.items():
            if key in saved:  # an entry that a later version has added is asked for where it is used
                refuse_other_shape(saved[key], value, f"{at}.{key}" if at else str(key))
        return
    if isinstance(fresh, list | tuple) and isinstance(saved, list | tuple) and len(saved) == len(fresh):
        for number, (one, other) in enumerate(zip(saved, fresh, strict=True)):
            refuse_other_shape(one, other, f"{at}.{number}")
        return
    if isinstance(fresh, Tensor):
        fits = isinstance(saved, Tensor) and saved.shape == fresh.shape
    elif isinstance(fresh, str):
        fits = isinstance(saved, str)
    else:
        fits = not isinstance(fresh, dict | list | tuple) and isinstance(saved, float | int | None)
    if not fits:
        raise ValueError(f"its {at} is not as it should be")


def refuse_odd_settings(taken: list[dict[str, Any]], fresh: list[dict[str, Any]]) -> None:
    """Raise ValueError unless an optimizer has taken over all settings, a number for a number, and so on.

    taken, fresh: its parameter groups after and before.
    """
    for group, own in zip(taken, fresh, strict=True):
        for key in own.keys() - {"params", "foreach", "fused"}:  # which may be None: as torch likes
            if key not in group or _kind(group[key]) != _kind(own[key]):
                raise ValueError(f"its optimizer's {key} is not as it should be")


def _kind(setting: Any) -> Any:
    """Whether it is a switch, a number, nothing, or a pair of such."""
    if isinstance(setting, list | tuple):
        return [_kind(part) for part in setting]
    is_number = isinstance(setting, int | float) and not isinstance(setting, bool)
    return "number" if is_number else type(setting)


def refuse_odd_steps(optimizer: torch.optim.Optimizer, saved: dict[int, dict[str, Any]]) -> None:
    """Raise ValueError unless what is remembered of each weight's steps is what such an optimizer remembers."""
    one = torch.zeros(1, requires_grad=True)
    one.grad = torch.zeros(1)
    known = inspect.signature(type(optimizer)).parameters
    probe = type(optimizer)([one], **{key: value for key, value in optimizer.defaults.items() if key in known})
    probe.step()
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, remembered in saved.items():
        shapes = {value.shape for value in remembered.values() if isinstance(value, Tensor)}
        plain = [value for value in remembered.values() if not isinstance(value, Tensor | None)]
        if plain or remembered.keys() != probe.state[one].keys() or shapes - {weights[number].shape, torch.Size()}:
            raise ValueError("what its optimizer remembers is not of these weights")
