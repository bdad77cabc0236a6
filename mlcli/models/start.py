"""Where learning starts from and what of the model learns: seeded first weights, or weights learned elsewhere."""

from pathlib import Path

import torch
from torch import Tensor, nn

from mlcli.data.info import DataInfo
from mlcli.errors import CheckpointError
from mlcli.models.config import FineTune, Model
from mlcli.models.finetune import Freezer, head_names, load_matching
from mlcli.models.normalized import Normalized
from mlcli.models.summary import count_parameters, megabytes


def build_seeded(config: Model, info: DataInfo, seed: int) -> Normalized:
    """The model a config names, its weights a function of the seed. Leaves torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed every GPU
        return Normalized(config.build(info), info)


def describe_model(config: Model, info: DataInfo, model: nn.Module) -> str:
    """`mlp 64-128-64-10  17,226 parameters (0.07 MB)`"""
    count, _ = count_parameters(model)
    return f"{config.describe(info)}  {count:,} parameters ({megabytes(model):.2f} MB)"


class Start:
    """Fine-tuning as configured; with None everything learns, at one learning rate, from the weights there are.

    Raises CheckpointError or ConfigError if weights or patterns do not fit the model.
    """

    def __init__(self, model: nn.Module, finetune: FineTune | None) -> None:
        self._finetune = finetune or FineTune()
        weights = self._finetune.weights
        # A model with weights of its own (model.weights) says in its notes what of them did not fit.
        self._notes = list(getattr(getattr(model, "net", model), "notes", ()))
        self._loaded = load_matching(model, weights).lines() if weights else []
        self._freezer = Freezer(model, self._finetune.freeze, self._finetune.unfreeze_at)
        self._head = head_names(model)

    def train_mode(self, epoch: int) -> None:
        """Training mode for epoch 0, 1, ...: what is frozen in it is frozen."""
        self._freezer.apply(epoch)

    def lr_scale(self, parameter_name: str) -> float:
        """1 for the last layer, `trunk_lr` for the rest."""
        return 1.0 if parameter_name in self._head else self._finetune.trunk_lr

    def describe(self) -> list[str]:
        """For people: what was loaded from where, what is frozen until when, which learning rates differ."""
        lines = list(self._loaded)
        if lines:
            lines[0] += f" from {self._finetune.weights}"
        lines = self._notes + lines
        if self._freezer.frozen:
            until = self._finetune.unfreeze_at
            lines.append(f"{len(self._freezer.frozen)} tensors frozen" + (f" until epoch {until}" if until else ""))
        if self._finetune.trunk_lr != 1:
            lines.append(f"all but the last layer learn at {self._finetune.trunk_lr:g} of the learning rate")
        return lines


def load_saved(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Put a checkpoint's weights into the model built from its config. Raises CheckpointError unless all of them fit.

    path: of the checkpoint, for the message.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]]
        raise CheckpointError(
            f"the weights do not fit the model of the config: {reasons[0] if reasons else error}",
            where=str(path),
            fix="take back what was changed in the model section",
        ) from error
