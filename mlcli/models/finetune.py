"""Fine-tuning: start from weights learned elsewhere, keep some of them still for a while (Yosinski et al. 2014)."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor, nn

from mlcli.errors import CheckpointError, ConfigError
from mlcli.models.layers import last_layer
from mlcli.models.normalized import Normalized
from mlcli.models.weights import read_weights
from mlcli.text import first_few, sides

STATISTICS = ("mean", "std")
"""Tensors of a saved model that were not learned but measured on its data."""


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor, by name.

    loaded, missing: the model's, found in the file or not (those not found stay as they were initialised).
    unexpected: the file's, for which the model has no place.
    mismatched: the model's, whose shape in the file is another: name -> (shape in the file, shape in the model).
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def lines(self) -> list[str]:
        """For people: one line of counts, then one for each kind of tensor left out."""
        wanted = len(self.loaded) + len(self.missing) + len(self.mismatched)
        lines = [f"loaded {len(self.loaded)} of {wanted} tensors"]
        if self.mismatched:
            shapes = [f"{name} {sides(there)} -> {sides(here)}" for name, (there, here) in self.mismatched.items()]
            lines.append(f"other shape in the file, left as initialised: {first_few(shapes)}")
        if self.missing:
            lines.append(f"not in the file, left as initialised: {first_few(self.missing)}")
        if self.unexpected:
            lines.append(f"in the file only, not used: {first_few(self.unexpected)}")
        return lines


def load_matching(model: nn.Module, weights_path: Path) -> LoadReport:
    """Copy the tensors of a file whose name and shape fit into `model`.

    Names may differ by the `net.` of `Normalized`. Its mean and std, or a detector's, are never overwritten: they
    describe the data that this model is about to see. Raises CheckpointError if the file cannot be read or nothing in
    it fits.
    """
    return copy_matching(model, read_weights(weights_path), weights_path)


def copy_matching(model: nn.Module, weights: dict[str, Tensor], origin: Path) -> LoadReport:
    """`load_matching` with the tensors at hand; `origin` is the file named in errors."""
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in STATISTICS}
    weights = {name: tensor for name, tensor in weights.items() if name not in STATISTICS}
    loaded, unexpected = [], []
    mismatched = {}
    for name, tensor in weights.items():
        place = next((n for n in (name, f"net.{name}", name.removeprefix("net.")) if n in own), None)
        if place is None:
            unexpected.append(name)
        elif own[place].shape != tensor.shape:
            mismatched[place] = (tuple(tensor.shape), tuple(own[place].shape))
        else:
            own[place].copy_(tensor)  # state_dict shares its memory with the model, detached from gradients
            loaded.append(place)
    if not loaded:
        raise CheckpointError(
            f"none of the {len(weights)} tensors in {origin} fits the model",
            where=f"file: {first_few(weights)}; model: {first_few(own)}",
            fix="train the model these weights come from, or choose other weights",
        )
    # Files from before PyTorch 0.4.1 do not count batches; a momentum-driven batch norm never reads that count.
    left = own.keys() - set(loaded) - mismatched.keys()
    missing = tuple(name for name in own if name in left and not name.endswith("num_batches_tracked"))
    return LoadReport(tuple(loaded), missing, tuple(unexpected), mismatched)


class Freezer:
    """Keeps parameters still by name until an epoch; what is still in an epoch depends on nothing but its number.

    Args:
        model: as saved, usually `Normalized`; patterns match the names within its `net`.
        patterns: as for file names: `layer1.*`, `*.bias`. None: nothing is ever frozen.
        unfreeze_at: epoch, counted from 1, from whose start nothing is frozen; None for never.

    Raises ConfigError if a pattern matches nothing or nothing is left to train.
    """

    def __init__(self, model: nn.Module, patterns: tuple[str, ...], unfreeze_at: int | None) -> None:
        self._model = model
        self._net = model.net if isinstance(model, Normalized) else model
        self._unfreeze_at = unfreeze_at
        names = [name for name, _ in self._net.named_parameters()]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise _unknown_pattern(pattern, names)
        self.frozen = frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
        """Names of the frozen parameters, without `net.`."""
        if len(self.frozen) == len(names):
            raise ConfigError(
                f"all {len(names)} parameters are frozen, so nothing can be learned",
                where="finetune.freeze",
                fix="leave out a pattern, so that at least the last layer can learn",
            )

    def apply(self, epoch: int) -> None:
        """Training mode for epoch 0, 1, ...: frozen parameters get no gradient, frozen batch norms stop adapting."""
        frozen = self.frozen if self._unfreeze_at is None or epoch + 1 < self._unfreeze_at else frozenset()
        self._model.train()
        for name, parameter in self._net.named_parameters():
            parameter.requires_grad_(name not in frozen)
        for layer in self._net.modules():
            # Its running statistics are no parameters: without this they would drift towards the new data.
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and _all_still(layer.parameters()):
                layer.eval()


def head_names(model: nn.Module) -> set[str]:
    """Parameters of the last layer with weights, named as in `model.named_parameters()`."""
    name, layer = last_layer(model)
    prefix = f"{name}." if name else ""
    return {prefix + parameter for parameter, _ in layer.named_parameters()}


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
