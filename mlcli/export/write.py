"""A predictor's model written as ONNX or torch's `.pt2`: preparation of pixels, model and answers in one graph."""

import contextlib
import importlib.util
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mlcli.errors import ConfigError, OutputError
from mlcli.export.facts import INPUT, KEY, Facts
from mlcli.export.file import MOST_BYTES, PIP, random_inputs
from mlcli.tasks.exporting import Exportable
from mlcli.text import size

Format = Literal["onnx", "pt2"]
Precision = Literal["fp32", "fp16"]
OPSETS = range(18, 24)
"""Of ONNX, that torch's exporter writes and onnxruntime reads."""
OPSET = 18
NEEDED = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Form:
    """What is asked of an exported file.

    batch: samples at once, None for any number. opset: of ONNX. precision: of weights and arithmetic, in ONNX; inputs
    and outputs stay uint8 or float32.
    """

    to: Format
    batch: int | None = None
    opset: int = OPSET
    precision: Precision = "fp32"


def exported(predictor: Exportable, facts: Facts, form: Form) -> bytes:
    """Return the content of the file. The model is on the CPU, in evaluation mode.

    Raises ConfigError for a model that cannot be exported, with the operator and the layer, or a missing package.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None] if form.to == "onnx" else []
    if missing:
        raise ConfigError(f"writing ONNX needs {', '.join(missing)}, not installed", where="--to onnx", fix=PIP)
    module = predictor.exportable().eval()
    info = predictor.info
    example = torch.from_numpy(random_inputs(info.input_shape, info.kind, form.batch or 2))
    shapes = None if form.batch else ({0: torch.export.Dim("batch", min=1)},)
    torch._dynamo.reset()  # or numbers that an earlier export had otherwise would become symbols, which a scan refuses
    with _quiet(), torch.no_grad():
        try:
            program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
        except Exception as error:  # whatever the model's own code raises when it is traced
            raise _refused(error, module, None) from error
        if form.to == "pt2":
            file = io.BytesIO()
            torch.export.save(program, file, extra_files={f"{KEY}.json": facts.to_json()})
            return file.getvalue()
        try:
            names = [*predictor.output_names]
            found = torch.onnx.export(
                program, (example,), dynamo=True, opset_version=form.opset, input_names=[INPUT], output_names=names,
                verbose=False, custom_translation_table=_translations(),
            )  # fmt: skip
        except Exception as error:  # torch.onnx.OnnxExporterError, or of a pass of it
            raise _refused(error, module, program) from error
    assert found is not None
    proto = found.model_proto
    written = {one.domain: one.version for one in proto.opset_import}[""]
    if written != form.opset:
        fix = f"leave it out, for {OPSET}"
        raise ConfigError(f"torch writes this model with opset {written}, not {form.opset}", where="--opset", fix=fix)
    if form.precision == "fp16":
        proto = halved(proto)
    proto.metadata_props.add(key=KEY, value=facts.to_json())
    proto.producer_name, proto.doc_string = "mlcli", f"{facts.task}: {facts.run}, epoch {facts.epoch}"
    if proto.ByteSize() > MOST_BYTES:
        raise OutputError(f"the model has {size(proto.ByteSize())}, an ONNX file at most 2 GiB", fix="--to pt2")
    return proto.SerializeToString()


def halved(proto: Any) -> Any:
    """The same graph with weights and arithmetic in fp16, but for operators that have no such form.

    Raises ConfigError for one with graphs inside it: their types would no longer be those of what they are given.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if inner := sorted({node.op_type for node in proto.graph.node} & {"Scan", "Loop", "If"}):
        what = (
            f"this model cannot be written in fp16: it has a loop ({', '.join(inner)}), as boxes are sorted out in one"
        )
        raise ConfigError(what, where="--precision fp16", fix="leave it out")
    with _quiet():
        return convert_float_to_float16(proto, keep_io_types=True)


def load_pt2(content: bytes) -> nn.Module:
    """Return the model of a `.pt2` that this process has written; that of a stranger could run any code."""
    with _quiet():
        return torch.export.load(io.BytesIO(content)).module()


def _translations() -> dict[Any, Any]:
    """Functions for operators that torch's exporter cannot translate: those of onnxscript 0.7 takes RoI pooling with
    other arguments than torchvision gives."""
    import torchvision  # noqa: F401, registers the operator
    from onnxscript import opset18

    def roi_pool(input: Any, regions: Any, scale: float, height: int, width: int) -> tuple[Any, Any]:
        """The maxima, and where they are, which no one asks for."""
        found = opset18.MaxRoiPool(input, regions, pooled_shape=(height, width), spatial_scale=scale)
        return found, found

    return {torch.ops.torchvision.roi_pool.default: roi_pool}


def _refused(error: Exception, module: nn.Module, program: Any) -> ConfigError:
    """The error for a model that cannot be exported: which operator, in which layer."""
    text = "\n".join(str(each) for each in _chain(error))
    operator = re.search(r"(?:aten|torchvision|prims|higher_order)[.:]+\w+(?:\.\w+)?", text)
    name = operator[0].replace("::", ".") if operator else ""
    layer = _layer_of(program, name) if program is not None else _layer_of_traceback(error, module)
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    what = f"operator {name} has no form in the file" if name and program is not None else first[:200]
    return ConfigError(
        f"this model cannot be exported: {what}",
        where=f"layer: {layer}" if layer else "",
        fix="another model, or another format (--to onnx or pt2)",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _layer_of(program: Any, operator: str) -> str:
    """The layer of the first node of a graph that is this operator; empty if there is none."""
    for node in program.graph.nodes:
        if operator and operator in str(node.target).replace("::", "."):
            stack = [*node.meta.get("nn_module_stack", {}).values()]
            return stack[-1][0] if stack else ""
    return ""


def _layer_of_traceback(error: Exception, module: nn.Module) -> str:
    """The innermost layer whose code was running; empty if there is none."""
    names = {id(layer): name for name, layer in module.named_modules() if name}
    found = ""
    for each in _chain(error):
        for frame, _ in traceback.walk_tb(each.__traceback__):
            owner = frame.f_locals.get("self")
            if id(owner) in names and isinstance(owner, nn.Module):
                found = f"{names[id(owner)]} ({type(owner).__name__})"
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let torch's exporter say nothing: it prints whole graphs, and progress with emoji."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def beside(path: Path, word: str) -> Path:
    """Return a path with a word before its ending: `model.onnx`, `unverified` -> `model.unverified.onnx`."""
    return path.with_name(f"{path.stem}.{word}{path.suffix}")
