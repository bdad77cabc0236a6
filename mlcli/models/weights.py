"""Weights learned elsewhere: read from files, copied to where they fit, kept as they are or tuned to the new task.

Files are mlcli's own checkpoints and runs, safetensors, and what torch.save writes (.pth, .pt). Anyone may have written
them, so only tensors are read from them: never code, by no flag.
"""

import mmap
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from mlcli.engine.archive import refuse_unless_dense, refuse_unlike_saved
from mlcli.engine.checkpoint import load_checkpoint, load_newest, model_weights
from mlcli.engine.run import open_run
from mlcli.errors import CheckpointError, ConfigError
from mlcli.models.layers import Normalized, last_layer
from mlcli.reading import ANY_SIZE, open_regular
from mlcli.text import first_few, sides

NESTS = ("state_dict", "model")
"""Keys under which training scripts keep the weights among other things."""

STATISTICS = ("mean", "std")
"""Tensors of a saved model that were not learned but measured on its data."""

KINDS = "a run folder, .ckpt, .safetensors, .pth or .pt"


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a weight file by name, on the CPU, without the wrappers' prefixes; of a run, the best weights.

    Raises CheckpointError if the path does not exist, is of no known kind, is damaged, or holds more than plain data.
    """
    if checkpoint := _saved(path):
        return model_weights(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}", fix=f"give {KINDS} file that exists")
    match path.suffix:
        case ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                content: Any = load_file(path)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path} is damaged: {error}", fix="copy or download it again") from None
        case ".pth" | ".pt":
            content = _read_pickle(path)
        case _:
            raise CheckpointError(f"{path} is not {KINDS} file", fix="rename it if its ending is wrong")
    for nest in NESTS:
        if isinstance(content, dict) and isinstance(content.get(nest), dict):
            content = content[nest]
            break
    tensors = {  # without what torch.compile (`_orig_mod.`) and DataParallel (`module.`) put around a name
        name.replace("_orig_mod.", "").removeprefix("module."): value
        for name, value in (content.items() if isinstance(content, dict) else ())
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        what = f"{path} holds no named tensors"
        raise CheckpointError(what, fix="save the weights with torch.save(model.state_dict(), path), or as safetensors")
    for name, tensor in tensors.items():
        refuse_unless_dense(f"'{name}'", tensor, path)
    return tensors


def read_classes(path: Path) -> tuple[str, ...]:
    """Return the names of the classes that a run or a checkpoint was trained on; none of another file."""
    facts = (_saved(path) or {}).get("facts", {}).get("data", {})
    return tuple(facts.get("class_names", ()))


def _saved(path: Path) -> dict[str, Any] | None:
    """Return the checkpoint that a run folder or a .ckpt file stands for."""
    if path.is_dir():
        run = open_run(path)  # a folder of several runs stands for the newest of them
        best = run.checkpoints / "best.ckpt"
        return load_checkpoint(best) if best.is_file() else load_newest(run.checkpoints)[0]
    return load_checkpoint(path) if path.is_file() and path.suffix == ".ckpt" else None


@dataclass(frozen=True)
class ClassRows:
    """Place of each class in the parameters that are shaped by the classes.

    names: of the classes. each: by parameter, how many of its rows (of its first dimension) each class has. The classes
    follow what belongs to none (background, objectness), and that is repeated for each anchor.
    together: the parameters in which the rows of a class stand side by side instead.
    """

    names: tuple[str, ...]
    each: Mapping[str, int]
    together: Collection[str] = ()

    def moved(self, weights: dict[str, Tensor], others: Sequence[str], model: nn.Module) -> dict[str, Tensor]:
        """Return weights of other classes with those of equal names in their places, and the model's own for the rest.

        others: names of the weights' classes.
        """
        own, moved = dict(model.named_parameters()), dict(weights)
        for parameter in self.each.keys() & weights.keys():
            mine, theirs = own[parameter].detach().clone(), weights[parameter]
            here, there = (self._grid(*one) for one in ((parameter, mine, self.names), (parameter, theirs, others)))
            if here is None or there is None or here.shape[2:] != there.shape[2:] or len(here) != len(there):
                continue  # of another model: loading says so
            first, begin = here.shape[1] - len(self.names), there.shape[1] - len(others)
            if first == begin:
                here[:, :first] = there[:, :first]
            for place, name in enumerate(self.names):
                if name in others:
                    here[:, first + place] = there[:, begin + others.index(name)]
            moved[parameter] = mine
        return moved

    def told(self, others: Sequence[str]) -> str:
        """For people: which of the classes the weights of others know."""
        known = [name for name in self.names if name in others]
        which = first_few(known) if known else "none"
        return f"classes taken over by name: {which} ({len(known)} of {len(self.names)})"

    def _grid(self, parameter: str, tensor: Tensor, names: Sequence[str]) -> Tensor | None:
        """A view [rows of a class, what belongs to none and the classes, ...]; None of a tensor that has no such."""
        each = self.each[parameter]
        if not tensor.ndim or len(tensor) % each or len(tensor) // each < len(names):
            return None
        if parameter in self.together:
            return tensor.unflatten(0, (-1, each)).transpose(0, 1)
        return tensor.unflatten(0, (each, -1))


@dataclass(frozen=True)
class LoadReport:
    """Outcome of loading, for each tensor by name.

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


def copy_matching(model: nn.Module, weights: dict[str, Tensor], origin: Path) -> LoadReport:
    """Copy the tensors whose name and shape fit into `model`. origin: the file that they are from, for errors.

    Names may differ by the `net.` of `Normalized`. Its mean and std, or a detector's, are never overwritten: they
    describe the data that this model is about to see. Raises CheckpointError if nothing fits.
    """
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
        what = f"none of the {len(weights)} tensors in {origin} fits the model"
        fix = "train the model these weights come from, or choose other weights"
        raise CheckpointError(what, where=f"file: {first_few(weights)}; model: {first_few(own)}", fix=fix)
    # Files from before PyTorch 0.4.1 do not count batches; a momentum-driven batch norm never reads that count.
    left = own.keys() - set(loaded) - mismatched.keys()
    missing = tuple(name for name in own if name in left and not name.endswith("num_batches_tracked"))
    return LoadReport(tuple(loaded), missing, tuple(unexpected), mismatched)


def load_saved(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Put a checkpoint's weights into the model built from its config. Raises CheckpointError unless all of them fit.

    path: of the checkpoint, for the message.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]]
        what = f"the weights do not fit the model of the config: {reasons[0] if reasons else error}"
        raise CheckpointError(what, where=str(path), fix="undo the changes in the model section") from error


# --- fine-tuning ------------------------------------------------------------------------------------------------------


class FineTuning:
    """The trainable part of a model and its learning rates (Yosinski et al. 2014).

    What is frozen in an epoch depends on nothing but the epoch's number.

    Args:
        model: as saved, usually `Normalized`; patterns match the names within its `net`.
        weights: a file whose tensors are loaded where they fit; None to keep the weights there are.
        freeze: patterns of the parameters that stay as they are, as for file names: `layer1.*`, `*.bias`.
        freeze_from: epoch, counted from 1, from whose start these stay as they are; until then they learn.
        unfreeze_at: epoch, counted from 1, from whose start nothing is frozen; None for never.
        trunk_lr: learning rate of all but the head, as a share of the head's.
        classes: where the classes are in the parameters that they shape: those of equal names are taken over from a
            run, and these parameters belong to the head besides the last layer's.

    Raises CheckpointError or ConfigError if weights or patterns do not fit the model, or nothing is left to train.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weights: Path | None = None,
        freeze: Sequence[str] = (),
        freeze_from: int = 1,
        unfreeze_at: int | None = None,
        trunk_lr: float = 1.0,
        classes: ClassRows | None = None,
    ) -> None:
        # A model with weights of its own (model.weights) says in its notes what of them did not fit.
        self._lines = list(getattr(getattr(model, "net", model), "notes", ()))
        new = {*getattr(model, "unloaded", ())}
        if isinstance(model, Normalized):
            new |= {f"net.{name}" for name in getattr(model.net, "unloaded", ())}
        if weights:
            tensors, renamed = read_weights(weights), list[str]()
            theirs = read_classes(weights) if classes else ()
            if classes and theirs and theirs != classes.names:
                tensors = classes.moved(tensors, theirs, model)
                renamed = [classes.told(theirs)]
            report = copy_matching(model, tensors, weights)
            first, *others = report.lines()
            self._lines += [f"{first} from {weights}", *renamed, *others]
            new = {*report.missing, *report.mismatched}
            if classes and theirs and not {*classes.names} <= {*theirs}:
                new |= classes.each.keys()  # some of their rows are as they were drawn
        self._model, self._trunk_lr = model, trunk_lr
        self._freeze_from, self._unfreeze_at = freeze_from, unfreeze_at
        self._net = model.net if isinstance(model, Normalized) else model
        names = [name for name, _ in self._net.named_parameters()]
        for pattern in freeze:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise _unknown_pattern(pattern, names)
        self._meant = frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in freeze))
        # What no file had is as it was drawn at random: frozen, it would never be of use.
        prefix = "" if self._net is model else "net."
        self.frozen = frozenset(name for name in self._meant if prefix + name not in new)
        """Names of the frozen parameters, without `net.`."""
        if len(self.frozen) == len(names):
            what = f"all {len(names)} parameters are frozen, so nothing can be learned"
            fix = "leave out a pattern, so that at least the last layer can learn"
            raise ConfigError(what, where="finetune.freeze", fix=fix)
        name, layer = last_layer(model)
        last = {f"{name}.{own}" if name else own for own, _ in layer.named_parameters()}
        shaped = classes.each.keys() if classes else set[str]()
        self.head = {name for name, _ in model.named_parameters() if name in {*last, *new, *shaped}}
        """Parameters of the last layer with weights, those shaped by the classes, and those that no file had, named as
        in `model.named_parameters()`."""

    def train_mode(self, epoch: int) -> None:
        """Training mode for epoch 0, 1, ...: frozen parameters get no gradient, frozen batch norms stop adapting."""
        is_over = self._unfreeze_at is not None and epoch + 1 >= self._unfreeze_at
        frozen = self.frozen if epoch + 1 >= self._freeze_from and not is_over else frozenset()
        self._model.train()
        for name, parameter in self._net.named_parameters():
            parameter.requires_grad_(name not in frozen)
        for layer in self._net.modules():
            # Its running statistics are no parameters: without this they would drift towards the new data.
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                trained = [parameter.requires_grad for parameter in layer.parameters()]
                if trained and not any(trained):
                    layer.eval()

    def lr_scale(self, parameter_name: str) -> float:
        """1 for the head, `trunk_lr` for the rest."""
        return 1.0 if parameter_name in self.head else self._trunk_lr

    def describe(self) -> list[str]:
        """For people: what was loaded from where, what is frozen until when, which learning rates differ."""
        lines = list(self._lines)
        if left := len(self._meant - self.frozen):
            lines.append(f"{left} tensors that finetune.freeze names are in no file, and learn")
        if self.frozen:
            since = f" from epoch {self._freeze_from} on" if self._freeze_from > 1 else ""
            until = f" until epoch {self._unfreeze_at}" if self._unfreeze_at else ""
            lines.append(f"{len(self.frozen)} tensors frozen{since}{until}")
        if self._trunk_lr != 1:
            which = "the last layer" if len(self.head) <= 2 else f"the head ({len(self.head)} tensors)"
            lines.append(f"all but {which} learn at {self._trunk_lr:g} of the learning rate")
        return lines


def _unknown_pattern(pattern: str, names: list[str]) -> ConfigError:
    # Every module is a pattern one may have meant: layer1.0.conv1.weight gives layer1.*, layer1.0.*, layer1.0.conv1.*
    parts = [name.split(".") for name in names]
    modules = {".".join(part[:depth]) + ".*" for part in parts for depth in range(1, len(part))}
    near = get_close_matches(pattern, sorted(modules) + names, n=3, cutoff=0.5)
    what = f"freeze pattern '{pattern}' matches no parameter"
    fix = f"did you mean {' or '.join(near)}?" if near else f"use names such as {first_few(sorted(modules))}"
    return ConfigError(what, where="finetune.freeze", fix=fix)


# --- formats ---------------------------------------------------------------------------------------------------------


def _read_pickle(path: Path) -> Any:
    """Read a file of torch.save, if it holds tensors and plain data only: a pickle could run any program."""
    try:
        with open(open_regular(path, ANY_SIZE), "rb") as file:
            if os.fstat(file.fileno()).st_size:  # nothing cannot be mapped
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as archive:
                    refuse_unlike_saved(archive, path)
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        if culprit is None:
            raise CheckpointError(f"{path} is damaged or no weight file", fix="copy or download it again") from None
        what = f"{path} was refused: it holds not only tensors but {culprit[1]}, and loading that could run a program"
        fix = "save the weights alone where they come from: torch.save(model.state_dict(), path)"
        raise CheckpointError(what, fix=fix) from None
    except Exception as error:  # torch tells a damaged file by half a dozen types, from EOFError to RuntimeError
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} cannot be read: {reason}", fix="copy or download it again") from None
