"""mlcli in Python and notebooks: what the commands do, with Python's values in and out.

    import mlcli

    run = mlcli.train("config.yaml", "optimizer.lr=0.05")
    run.scores["test"]["accuracy"]
    run.predict("photo.jpg")
    mlcli.load("runs/config").evaluate("val")
    run.export("onnx")

The run folder is the same as the commands', so both may be mixed. What goes wrong is a `mlcli.errors.UserError`.
"""

import csv
import html
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.commands import export as export_command
from mlcli.commands import init as init_command
from mlcli.commands.common import tiles_asked
from mlcli.commands.frames import frame_records, video_among
from mlcli.commands.predict import Wanted, answers, prepared
from mlcli.commands.train import train_experiment
from mlcli.engine.run import RunFolder, open_run
from mlcli.errors import DataError
from mlcli.experiment import Experiment
from mlcli.report.evidence import Evidence
from mlcli.report.page.write import NAME, write_report
from mlcli.report.record import Record
from mlcli.report.summary import layer_troubles
from mlcli.report.verdict import Verdict, judge
from mlcli.saved import computing, load_predictor
from mlcli.scoring import Asked, measure

if TYPE_CHECKING:
    from torch import nn

    from mlcli.engine.predicting import Predictor
    from mlcli.engine.runtime import Runtime
    from mlcli.export.run import Result
    from mlcli.show.details import Evaluation

PAGE_HEIGHT = 640
"""Pixels that a report takes in a notebook."""


def train(
    config: str | Path | Mapping[str, Any], *overrides: str, name: str | None = None, root: str | Path = "runs"
) -> "Run":
    """Train as `mlcli train` does, with the same lines printed, and return the run.

    Args:
        config: a YAML file, or what one holds as a dict; relative paths in a dict start from the working directory.
        overrides: `key=value` texts, such as "optimizer.lr=0.05".
        name: of the run; the YAML's unless given.
        root: folder of all runs.

    Ctrl-C, or a notebook's stop button, ends it after the step at hand; `Run.resume` goes on. Raises UserError.
    """
    if isinstance(config, Mapping):
        experiment = Experiment.of_mapping(config, overrides)
    else:
        experiment = Experiment.load(Path(config), overrides)
    return Run(train_experiment(experiment, name=name, resume=None, root=Path(root))[1])


def init(data: str | Path = "digits", config: str | Path = "config.yaml", *, force: bool = False) -> Path:
    """Write a commented YAML to start from, as `mlcli init` does, and return its path.

    data: digits, xor, scenes; a folder of images, a CSV file or annotated pictures, which are looked at first. force:
    overwrite the file. Raises UserError.
    """
    init_command.run(str(data), Path(config), force)
    return Path(config)


def load(run: str | Path, root: str | Path = "runs") -> "Run":
    """Return a run by its folder or its name. Raises CheckpointError if there is none."""
    return Run(open_run(str(run), Path(root)))


class Run:
    """A run folder: what was trained, how good it is, and its model. `mlcli.load` finds one."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        scores = {split: values for split, values in self.scores.items() if split == self._record().split}
        return f"Run({str(self.path)!r}, {self.status.get('state', 'unknown')}, {scores})"

    def _repr_html_(self) -> str:
        page = html.escape(self.report.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:{PAGE_HEIGHT}px;border:0"></iframe>'

    @property
    def name(self) -> str:
        return self._folder.name

    @property
    def path(self) -> Path:
        return self._folder.path

    @property
    def status(self) -> dict[str, Any]:
        """state ("running", "finished", "interrupted", "killed", "failed", "diverged"), epochs, seconds ..."""
        return self._folder.status_or_empty()

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """The best model's metrics by split; of an unfinished run, the best value that was watched."""
        return self._record().scores

    @property
    def curves(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: split, step, epoch and metrics; `pandas.DataFrame(run.curves)` is a table."""
        return self._record().entries

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration, defaults filled in."""
        return self._record().config

    @property
    def report(self) -> Path:
        """report.html, written if it is not there yet."""
        path = self.path / NAME
        return path if path.is_file() else write_report(self._folder)

    @property
    def verdict(self) -> Verdict | None:
        """kind ("good fit", "overfitting", "diverged" ...), reasons and advice; None if nothing was ever measured."""
        return judge(Evidence.of(self._record()))

    @property
    def layer_troubles(self) -> list[str]:
        """What was wrong with single layers, such as gradients that vanish; empty if nothing was."""
        return layer_troubles(self._record().layers)

    @property
    def model(self) -> "nn.Module":
        """The best model, in evaluation mode, on this machine's device.

        It takes images uint8 [B, C, H, W] of the size it was trained with, or rows of features float32 [B, F], and
        normalises them itself.
        """
        return self._loaded[0].model

    def predict(
        self,
        inputs: Any,
        *,
        top: int | None = None,
        invert: bool = False,
        threshold: float | Mapping[str, float] | None = None,
        size: int | None = None,
        tiles: int | None = None,
        overlap: float | None = None,
    ) -> list[dict[str, Any]]:
        """Return the best model's answer to each input, as `mlcli predict` gives it.

        Args:
            inputs: one or a list of: an image file or a folder of them, a Pillow image, an array or a tensor uint8
                [H, W], [H, W, 3] or [3, H, W]; for a model of tables, a CSV file, a list of dicts by column, or a
                DataFrame. Images are brought to the model's size as the training data were. Or one file of a video or
                an animation, with an answer for each frame.
            top: how many probabilities or objects an answer has, the likeliest.
            invert: swap dark and bright, as for ink on paper.
            threshold: objects less certain than this are left out; or scores by class, the run's own for the others.
            size: pixels of the longer side that images are brought to, unlike in training.
            tiles, overlap: side in pixels of the tiles that images are looked at in, and the share of it that the next
                tile sees too, 0.2 unless given.

        An input that cannot be read has `error` in its answer. Raises UserError; its message speaks of the command's
        options, which are called as these.
        """
        of_classes = threshold if isinstance(threshold, Mapping) else {} if threshold is None else {"": threshold}
        wanted = Wanted(top, invert, of_classes, size, tiles, overlap)
        loaded, runtime = self._loaded if size is None else self._load(size)
        predictor = copy(loaded)  # it is to answer so this once
        compute = prepared(predictor, computing(predictor, runtime), wanted)

        def of_files(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
            return answers(predictor, compute, predictor.inputs(paths, invert=invert), wanted)

        with tempfile.TemporaryDirectory() as folder:
            paths, names = _as_files(inputs, Path(folder))
            video = video_among(paths, {})
            found = [*(frame_records(video, of_files) if video else of_files(paths))]
        return [record | {"input": names.get(record["input"], record["input"])} for record in found]

    def evaluate(
        self,
        split: str | None = None,
        *overrides: str,
        on: str | Path | None = None,
        size: int | None = None,
        tiles: int | None = None,
        overlap: float | None = None,
    ) -> "Evaluation":
        """Measure the best model on a split as `mlcli evaluate` does: "metrics", "classes", "notes" on the data ...

        Args:
            split: "train", "val" or "test"; None for test, or for val where there is no test split.
            overrides: `key=value` changes to the run's configuration, such as where the data now are.
            on: new labelled data of the same kind, all of which are measured instead of a split.
            size, tiles, overlap: as in `predict`.

        Writes nothing. Raises UserError.
        """
        data, tiling = None if on is None else Path(on), tiles_asked(tiles, overlap)
        checkpoint = self._folder.checkpoint("best")
        return measure(Asked(self._folder, checkpoint, split, overrides, data, size), tiles=tiling)

    def export(
        self,
        to: str = "onnx",
        file: str | Path | None = None,
        *,
        batch: int | None = None,
        opset: int | None = None,
        precision: str = "fp32",
    ) -> "Result":
        """Write the best model as one file, verified beside the model on the run's own data, as `mlcli export` does.

        Args:
            to: "onnx" or "pt2".
            file: its name; `model.onnx` or `model.pt2` in the run folder unless given.
            batch: samples that the file takes at once, None for any number.
            opset: of ONNX.
            precision: "fp32", or "fp16" for half the size, in ONNX.

        Returns what was written, and the figures of the comparison. Raises CheckpointError, after the file was kept
        under another name, if its answers are not the model's; ConfigError for a model that cannot be exported.
        """
        output = None if file is None else Path(file)
        result = export_command.export(self._folder, to, output, batch=batch, opset=opset, precision=precision)
        export_command.refuse_unlike(result)
        return result

    def resume(self, *overrides: str) -> "Run":
        """Go on with a training that was stopped, or with more epochs ("train.epochs=40"). Raises UserError."""
        experiment = Experiment.of_run(self.path, overrides)
        train_experiment(experiment, name=None, resume=str(self.path), root=self.path.parent)
        return Run(self._folder)

    @cached_property
    def _loaded(self) -> "tuple[Predictor, Runtime]":
        return self._load()

    def _load(self, size: int | None = None) -> "tuple[Predictor, Runtime]":
        return load_predictor(str(self.path), "best", self.path.parent, size)

    def _record(self) -> Record:
        return Record.read(self._folder)


def _as_files(inputs: Any, folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The files that inputs are, and what their names are to be called; those in memory are written to the folder.

    So they take the same way as any file: the decoder, its policy, the resizing. PNG keeps each pixel.
    """
    if hasattr(inputs, "to_csv"):  # a DataFrame
        inputs.to_csv(folder / "table.csv", index=False)
        return [folder / "table.csv"], {}
    if isinstance(inputs, str | Path) or not isinstance(inputs, Sequence):
        inputs = [inputs]
    if inputs and all(isinstance(row, Mapping) for row in inputs):
        with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*dict.fromkeys(key for row in inputs for key in row)])
            writer.writeheader()
            writer.writerows(inputs)
        return [folder / "table.csv"], {}
    paths, names = [], {}
    for number, each in enumerate(inputs):
        if isinstance(each, str | Path):
            paths.append(Path(each))
            continue
        path = folder / f"{number}.png"
        _image(each).save(path)
        paths.append(path)
        names[str(path)] = f"image {number}"
    return paths, names


def _image(value: Any) -> Any:
    """A Pillow image of an image, an array or a tensor. Raises DataError."""
    import numpy as np
    from PIL import Image

    if isinstance(value, Image.Image):
        return value
    array = np.asarray(value)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        shape = f"{array.dtype} {list(array.shape)}"
        fix = "an image is uint8 [H, W], [H, W, 3] or [3, H, W], from 0 to 255"
        raise DataError(f"{type(value).__name__} {shape} is no image", fix=fix)
    return Image.fromarray(array)
