"""Weights from files: mlcli's own checkpoints and runs, safetensors, and what torch.save writes (.pth, .pt).

Anyone may have written them, so only tensors are read from them: never code, by no flag.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from mlcli.engine.checkpoint import load_checkpoint, load_newest, model_weights, refuse_compressed
from mlcli.engine.run import open_run
from mlcli.errors import CheckpointError
from mlcli.text import first_few, sides

NESTS = ("state_dict", "model")
"""Keys under which training scripts keep the weights beside other things."""

STATISTICS = ("mean", "std")
"""Tensors of a saved model that were not learned but measured on its data."""

KINDS = "a run folder, .ckpt, .safetensors, .pth or .pt"


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a weight file by name, on the CPU, without the wrappers' prefixes.

    Raises CheckpointError if the path does not exist, is of no known kind, is damaged, or holds more than plain data.
    """
    if path.is_dir():
        return _read_run(path)
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}", fix=f"give {KINDS} file that exists")
    match path.suffix:
        case ".ckpt":
            content: Any = model_weights(load_checkpoint(path))
        case ".safetensors":
            content = _read_safetensors(path)
        case ".pth" | ".pt":
            content = _read_pickle(path)
        case _:
            raise CheckpointError(f"{path} is not {KINDS} file", fix="rename it if its ending is wrong")
    for nest in NESTS:
        if isinstance(content, dict) and isinstance(content.get(nest), dict):
            content = content[nest]
            break
    tensors = {
        _bare(name): value
        for name, value in (content.items() if isinstance(content, dict) else ())
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise CheckpointError(
            f"{path} holds no named tensors",
            fix="save the weights with torch.save(model.state_dict(), path), or as safetensors",
        )
    return tensors


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


# --- formats ---------------------------------------------------------------------------------------------------------


def _read_run(folder: Path) -> dict[str, Tensor]:
    """The best weights of a run, or its newest whole ones. A folder of several runs stands for the newest of them."""
    run = open_run(folder)
    best = run.checkpoints / "best.ckpt"
    return model_weights(load_checkpoint(best) if best.is_file() else load_newest(run.checkpoints)[0])


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", fix="copy or download it again") from None


def _read_pickle(path: Path) -> Any:
    """What torch.save wrote, if it is tensors and plain data only: a pickle may otherwise run any program."""
    try:
        with path.open("rb") as file:
            refuse_compressed(file, path)
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        if culprit is None:
            raise CheckpointError(f"{path} is damaged or no weight file", fix="copy or download it again") from None
        raise CheckpointError(
            f"{path} was refused: besides tensors it holds {culprit[1]}, and loading that could run a program",
            fix="save the weights alone where they come from: torch.save(model.state_dict(), path)",
        ) from None
    except Exception as error:  # torch tells a damaged file by half a dozen types, from EOFError to RuntimeError
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path} cannot be read: {reason}", fix="copy or download it again") from None


def _bare(name: str) -> str:
    """Without what torch.compile (`_orig_mod.`) and DataParallel (`module.`) put around a name."""
    return name.replace("_orig_mod.", "").removeprefix("module.")
