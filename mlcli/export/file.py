"""An exported ONNX file as a model: opened with care, asked through onnxruntime. No torch in here.

A `.pt2` file is not opened: torch reads expressions in it with Python's `eval`, so that it can run anything.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlcli.errors import CheckpointError, ConfigError
from mlcli.experiment import TASKS, find_installed_tasks
from mlcli.export.facts import INPUT, KEY, Facts
from mlcli.export.wire import NotOnnx, external_tensors, metadata
from mlcli.reading import read_file, why_absent
from mlcli.text import first_few

if TYPE_CHECKING:
    from mlcli.tasks.exporting import ExportedAnswers

MOST_BYTES = 2**31 - 1
"""Of an ONNX file in one piece: a protocol buffer cannot be larger."""
PIP = "pip install 'mlcli[onnx]'"
DTYPES = {"image": ("uint8", np.uint8), "features": ("float", np.float32)}
"""Of the input by `DataInfo.kind`: onnxruntime's word, and NumPy's type."""


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """A model in onnxruntime, on the CPU.

    path: of the file. facts: what it says of itself. answers: what its predictions become for people.
    """

    path: Path
    facts: Facts
    answers: "ExportedAnswers"
    session: Any

    def predict(self, inputs: Any) -> Any:
        """Return the predictions for inputs as in `Inputs.read`: what `answers.records` takes."""
        return self.answers.predictions(self.outputs(np.asarray(inputs)))

    def outputs(self, inputs: np.ndarray) -> list[np.ndarray]:
        """Return the model's outputs for some samples, first dimension alike. Raises CheckpointError."""
        size = self.facts.batch or len(inputs)
        parts = [self._run(inputs[start : start + size], size) for start in range(0, len(inputs), size)]
        return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]

    def _run(self, inputs: np.ndarray, size: int) -> list[np.ndarray]:
        """As many at once as the file takes; what is missing is filled with zeros, whose answers are left out."""
        missing = size - len(inputs) if self.facts.batch else 0
        full = np.concatenate([inputs, np.zeros((missing, *inputs.shape[1:]), inputs.dtype)]) if missing else inputs
        try:
            found = self.session.run(list(self.answers.output_names), {INPUT: np.ascontiguousarray(full)})
        except Exception as error:  # onnxruntime's errors have no common base but this
            raise _refused(self.path, f"it fails: {_first_line(error)}") from error
        for name, value, shape in zip(self.answers.output_names, found, self.answers.output_shapes(), strict=True):
            if value.shape != (len(full), *shape):
                raise _refused(self.path, f"its output '{name}' is {list(value.shape)}, not {[len(full), *shape]}")
        labels = dict(zip(self.answers.output_names, found, strict=True)).get("labels")
        if labels is not None and not ((labels >= 0) & (labels <= self.answers.info.num_classes)).all():
            raise _refused(self.path, "it answers with classes that it does not name")
        return [value[: len(inputs)] for value in found]


def open_exported(path: Path, threads: int = 0) -> ExportedModel:
    """Open a file that `mlcli export` wrote. Raises CheckpointError for any other, before it is loaded where possible.

    threads: of onnxruntime; 0 for its own choice.
    """
    if path.suffix.lower() == ".pt2":
        what = "a .pt2 file can run any code when it is opened, so mlcli does not answer with it"
        fix = "use the run, or its ONNX file (mlcli export RUN --to onnx); torch.export.load opens what you trust"
        raise CheckpointError(what, where=str(path), fix=fix)
    try:
        content = read_file(path, MOST_BYTES)
    except OSError as error:
        what = f"cannot read the model: {error.strerror or error}"
        raise CheckpointError(what, where=str(path), fix=why_absent(path)) from error
    facts = read_facts(content, path)
    answers = answers_of(facts, path)
    session = _session(content, path, threads)
    _refuse_other_interface(session, facts, answers, path)
    return ExportedModel(path, facts, answers, session)


def read_facts(content: bytes, path: Path) -> Facts:
    """Return what an ONNX file says of itself. Raises CheckpointError, also if it wants to open other files."""
    try:
        entries, elsewhere = metadata(content), external_tensors(content)
    except NotOnnx as error:
        raise _refused(path, f"it is damaged or no ONNX file: {error}") from None
    if elsewhere:
        what = f"its weights lie in other files, which are not opened: {first_few(map(repr, elsewhere))}"
        raise _refused(path, what, "onnx.save(onnx.load(FILE), OTHER) puts them into one file, if you trust it")
    if KEY not in entries:
        what = "it does not say how its inputs are prepared and what its outputs mean: no metadata of mlcli's"
        raise _refused(path, what)
    try:
        return Facts.from_json(entries[KEY])
    except ValueError as error:
        raise _refused(path, f"its metadata are not as mlcli writes them: {error}") from None


def answers_of(facts: Facts, path: Path) -> "ExportedAnswers":
    """Return what makes answers of the file's outputs. Raises CheckpointError if this mlcli does not know its task."""
    find_installed_tasks()
    entry = TASKS.get(facts.task)
    if entry is None or not entry.answers:
        raise _refused(path, f"no task '{facts.task}' answers with exported files")
    try:
        answers = entry.answers_type.from_facts(facts.answers)
        answers.output_shapes()
    except CheckpointError as error:
        raise _refused(path, f"its metadata are not as mlcli writes them: {error.where}: {error.what}") from None
    return answers


def _session(content: bytes, path: Path, threads: int) -> Any:
    """onnxruntime's session of a model. Raises ConfigError if it is not installed, CheckpointError if it refuses."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError("ONNX files need onnxruntime, which is not installed", where=str(path), fix=PIP) from error
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base but this
        raise _refused(path, f"onnxruntime does not take it: {_first_line(error)}") from error


def _refuse_other_interface(session: Any, facts: Facts, answers: "ExportedAnswers", path: Path) -> None:
    """Raise CheckpointError unless inputs and outputs are those that the facts speak of."""
    info = answers.info
    word, _ = DTYPES[info.kind]
    inputs = [(one.name, one.type, one.shape[1:], one.shape[0]) for one in session.get_inputs() if one.shape]
    batch = inputs[0][3] if inputs else None
    if [one[:3] for one in inputs] != [(INPUT, f"tensor({word})", [*info.input_shape])]:
        found = "; ".join(f"{name}: {kind} {shape}" for name, kind, shape, _ in inputs) or "none"
        raise _refused(path, f"it takes {found}, not {INPUT}: tensor({word}) {[*info.input_shape]} as its metadata say")
    if (batch if isinstance(batch, int) else None) != facts.batch:
        raise _refused(path, f"it takes {batch} samples at once, and its metadata say {facts.batch or 'any number'}")
    names = [one.name for one in session.get_outputs()]
    kinds = [one.type for one in session.get_outputs()]
    wanted = ["tensor(int64)" if name == "labels" else "tensor(float)" for name in answers.output_names]
    if names != [*answers.output_names] or kinds != wanted:
        raise _refused(path, f"it answers with {', '.join(names)}, not with {', '.join(answers.output_names)}")


def random_inputs(shape: Sequence[int], kind: str, count: int) -> np.ndarray:
    """Return samples of noise, the same each time: uint8 or float32 [count, *shape]."""
    generator = np.random.default_rng(0)
    if kind == "image":
        return generator.integers(0, 256, (count, *shape), dtype=np.uint8)
    return generator.standard_normal((count, math.prod(shape)), dtype=np.float32)


def _refused(
    path: Path, what: str, fix: str = "mlcli export RUN --to onnx writes a file that is taken"
) -> CheckpointError:
    return CheckpointError(f"this file cannot be used: {what}", where=str(path), fix=fix)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
