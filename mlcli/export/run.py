"""A run's model as one file that other programs can use, called done only when the file answers as the model does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlcli.engine.run import RunFolder
from mlcli.errors import ConfigError, UserError
from mlcli.export.file import open_exported
from mlcli.export.verify import Verified, facts_of, verify
from mlcli.export.write import Form, beside, exported, load_pt2
from mlcli.files import move, write_output
from mlcli.saved import load_predictor, load_task, load_whole
from mlcli.tasks.exporting import Exportable
from mlcli.text import table


@dataclass(frozen=True)
class Result:
    """path: of the file that was written; of one below the bar, another than was asked for. size_bytes: of it."""

    path: Path
    size_bytes: int
    form: Form
    verified: Verified

    def __str__(self) -> str:
        """The figures of the comparison as a table."""
        return table(["", "model", self.form.to, "bar"], self.verified.rows)

    @property
    def fix(self) -> str:
        """What to do about a file below the bar."""
        return "--precision fp32" if self.form.precision == "fp16" else "use the run itself, or another format"


def export_run(folder: RunFolder, checkpoint: str, form: Form, output: Path | None = None) -> Result:
    """Export the model of a run's checkpoint and verify the file.

    output: the file; None for `model.onnx` or `model.pt2` in the run folder. Until it is verified, and for ever if it
    is below the bar, `unverified` stands in its name. Raises ConfigError for a model that cannot be exported.
    """
    path = folder.path / f"model.{form.to}" if output is None else output
    if path.suffix.lower() != f".{form.to}":
        raise ConfigError(f"{path} is no name for this format", where="--output", fix=f"end its name in .{form.to}")
    predictor, _ = load_predictor(str(folder.path), checkpoint, folder.path.parent)
    if not isinstance(predictor, Exportable):
        raise ConfigError("models of this task cannot be exported", where=f"run: {folder.name}")
    predictor.model.to("cpu").eval()
    source = folder.checkpoint(checkpoint)
    facts = facts_of(predictor, load_whole(source), folder.name, form)
    content = exported(predictor, facts, form)
    unverified = beside(path, "unverified")
    write_output(unverified, content)
    try:
        found: Any = load_task(folder, source)
    except UserError as error:
        found = error
    weights = sum(tensor.nbytes for tensor in predictor.model.state_dict().values())
    verified = verify(predictor, _runner(unverified, content, form), found, (weights, len(content)))
    if verified.passed:
        move(unverified, path)
    return Result(path if verified.passed else unverified, len(content), form, verified)


def _runner(path: Path, content: bytes, form: Form) -> Any:
    """What runs the file as it was written, on as many threads as torch does."""
    if form.to == "onnx":
        return open_exported(path, threads=torch.get_num_threads()).outputs
    module = load_pt2(content)

    def run(inputs: np.ndarray) -> list[np.ndarray]:
        size, parts = form.batch or len(inputs), []
        for start in range(0, len(inputs), size):
            part = torch.from_numpy(inputs[start : start + size])
            full = torch.cat([part, part.new_zeros(size - len(part), *part.shape[1:])])
            with torch.no_grad():
                parts.append([one[: len(part)].numpy() for one in module(full)])
        return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]

    return run
