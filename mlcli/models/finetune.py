"""Fine-tuning: start from weights learned elsewhere, keep some of them still for a while (Yosinski et al. 2014)."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from torch import nn

from mlcli.errors import ConfigError
from mlcli.models.layers import last_layer
from mlcli.models.normalized import Normalized
from mlcli.models.weights import load_matching
from mlcli.text import first_few


class FineTuning:
    """What of a model learns, and how fast; what is still in an epoch depends on nothing but the epoch's number.

    Args:
        model: as saved, usually `Normalized`; patterns match the names within its `net`.
        weights: a file whose tensors are loaded where they fit; None to keep the weights there are.
        freeze: patterns of the parameters that stay as they are, as for file names: `layer1.*`, `*.bias`.
        unfreeze_at: epoch, counted from 1, from whose start nothing is frozen; None for never.
        trunk_lr: learning rate of all but the last layer, as a share of the last one's.

    Raises CheckpointError or ConfigError if weights or patterns do not fit the model, or nothing is left to train.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weights: Path | None = None,
        freeze: Sequence[str] = (),
        unfreeze_at: int | None = None,
        trunk_lr: float = 1.0,
    ) -> None:
        # A model with weights of its own (model.weights) says in its notes what of them did not fit.
        self._lines = list(getattr(getattr(model, "net", model), "notes", ()))
        if weights:
            first, *others = load_matching(model, weights).lines()
            self._lines += [f"{first} from {weights}", *others]
        self._model, self._unfreeze_at, self._trunk_lr = model, unfreeze_at, trunk_lr
        self._net = model.net if isinstance(model, Normalized) else model
        names = [name for name, _ in self._net.named_parameters()]
        for pattern in freeze:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise _unknown_pattern(pattern, names)
        self.frozen = frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in freeze))
        """Names of the frozen parameters, without `net.`."""
        if len(self.frozen) == len(names):
            raise ConfigError(
                f"all {len(names)} parameters are frozen, so nothing can be learned",
                where="finetune.freeze",
                fix="leave out a pattern, so that at least the last layer can learn",
            )
        name, layer = last_layer(model)
        self.head = {f"{name}.{own}" if name else own for own, _ in layer.named_parameters()}
        """Parameters of the last layer with weights, named as in `model.named_parameters()`."""

    def train_mode(self, epoch: int) -> None:
        """Training mode for epoch 0, 1, ...: frozen parameters get no gradient, frozen batch norms stop adapting."""
        frozen = self.frozen if self._unfreeze_at is None or epoch + 1 < self._unfreeze_at else frozenset()
        self._model.train()
        for name, parameter in self._net.named_parameters():
            parameter.requires_grad_(name not in frozen)
        for layer in self._net.modules():
            # Its running statistics are no parameters: without this they would drift towards the new data.
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and _all_still(layer.parameters()):
                layer.eval()

    def lr_scale(self, parameter_name: str) -> float:
        """1 for the last layer, `trunk_lr` for the rest."""
        return 1.0 if parameter_name in self.head else self._trunk_lr

    def describe(self) -> list[str]:
        """For people: what was loaded from where, what is frozen until when, which learning rates differ."""
        lines = list(self._lines)
        if self.frozen:
            until = f" until epoch {self._unfreeze_at}" if self._unfreeze_at else ""
            lines.append(f"{len(self.frozen)} tensors frozen{until}")
        if self._trunk_lr != 1:
            lines.append(f"all but the last layer learn at {self._trunk_lr:g} of the learning rate")
        return lines


def _all_still(parameters: Iterable[nn.Parameter]) -> bool:
    trained = [parameter.requires_grad for parameter in parameters]
    return bool(trained) and not any(trained)


def _unknown_pattern(pattern: str, names: list[str]) -> ConfigError:
    # Every module is a pattern one may have meant: layer1.0.conv1.weight gives layer1.*, layer1.0.*, layer1.0.conv1.*
    parts = [name.split(".") for name in names]
    modules = {".".join(part[:depth]) + ".*" for part in parts for depth in range(1, len(part))}
    near = get_close_matches(pattern, sorted(modules) + names, n=3, cutoff=0.5)
    return ConfigError(
        f"freeze pattern '{pattern}' matches no parameter",
        where="finetune.freeze",
        fix=f"did you mean {' or '.join(near)}?" if near else f"use names such as {first_few(sorted(modules))}",
    )
