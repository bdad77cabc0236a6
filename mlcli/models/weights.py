"""Weight files: mlcli's own checkpoints and runs, safetensors, and what torch.save writes (.pth, .pt).

They come from strangers, so only tensors are read from them: never code, by no flag.
"""

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from mlcli.engine.checkpoint import load_checkpoint, load_newest, model_weights, refuse_compressed
from mlcli.engine.run import open_run
from mlcli.errors import CheckpointError

NESTS = ("state_dict", "model")
"""Keys under which training scripts keep the weights beside other things."""

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
