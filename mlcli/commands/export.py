"""`mlcli export`: a run's model as one ONNX or .pt2 file, verified beside the model on the run's own data."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlcli.commands.common import find_run, is_exported, refuse_input, say
from mlcli.errors import CheckpointError, ConfigError
from mlcli.text import command_line, shown, size

if TYPE_CHECKING:
    from mlcli.engine.run import RunFolder
    from mlcli.export.run import Result

A_NUMBER = "a number such as 1, or dynamic"
MOST_SAMPLES = 65536


def run(
    run: str,
    to: str,
    *,
    output: Path | None = None,
    batch: str = "dynamic",
    opset: int | None = None,
    precision: str = "fp32",
    checkpoint: str = "best",
    root: Path = Path("runs"),
) -> None:
    """Write the file, and print how it compares with the model.

    batch: samples that the file takes at once, or "dynamic"; for the others see `export`. Raises UserError;
    CheckpointError, after the file was kept under another name, if its answers are not the model's.
    """
    if batch != "dynamic" and not (batch.isascii() and batch.isdigit()):
        raise ConfigError(f"'{batch}' is no number of samples", where="--batch", fix=A_NUMBER)
    count = None if batch == "dynamic" else int(batch[:9])
    refuse_form(to, count, opset, precision)
    if is_exported(run):
        raise ConfigError(f"{run} is exported already", where="RUN", fix="name the run that it comes from")
    folder = find_run(run, root)
    result = export(folder, to, output, batch=count, opset=opset, precision=precision, checkpoint=checkpoint)
    name, form = shown(result.path.absolute()), result.form
    kind = [f"opset {form.opset}", form.precision] if to == "onnx" else []
    say(
        [
            ("file", ", ".join([name, size(result.size_bytes), *kind, f"batch {batch}"])),
            ("verified", result.verified.on),
        ]
    )
    print(f"\n{result}\n")
    refuse_unlike(result)
    if to == "onnx":
        say([("use", f"{command_line('predict', name, 'FILES')}")])


def refuse_form(to: str, batch: int | None, opset: int | None, precision: str) -> None:
    """Raise ConfigError for what no file can be."""
    if to not in ("onnx", "pt2"):
        raise ConfigError(f"'{to}' is no format", where="--to", fix="onnx or pt2")
    if batch is not None and not 1 <= batch <= MOST_SAMPLES:
        raise ConfigError(f"'{batch}' is no number of samples", where="--batch", fix=A_NUMBER)
    if opset is not None and to != "onnx":
        raise ConfigError("only ONNX has an opset", where="--opset", fix="leave it out")
    if precision not in ("fp32", "fp16"):
        raise ConfigError(f"'{precision}' is no precision of a file", where="--precision", fix="fp32 or fp16")
    if precision != "fp32" and to != "onnx":
        raise ConfigError("only ONNX is written in fp16", where="--precision", fix="--to onnx, or leave it out")


def export(
    folder: "RunFolder",
    to: str,
    output: Path | None = None,
    *,
    batch: int | None = None,
    opset: int | None = None,
    precision: str = "fp32",
    checkpoint: str = "best",
) -> "Result":
    """Write a run's model as one file and compare it with the model; what came of it is in the result.

    Args:
        to: "onnx" or "pt2".
        output: the file; None for `model.onnx` or `model.pt2` in the run folder.
        batch: samples that the file takes at once, None for any number.
        opset: of ONNX.
        precision: "fp32", or "fp16" for half the size, in ONNX.
        checkpoint: "best" or "last".

    Raises ConfigError for a model that cannot be exported.
    """
    refuse_form(to, batch, opset, precision)

    from mlcli.export.run import export_run
    from mlcli.export.write import OPSET, OPSETS, Form

    if opset is not None and opset not in OPSETS:
        raise ConfigError(f"opset {opset} cannot be written", where="--opset", fix=f"{OPSETS[0]} to {OPSETS[-1]}")
    if output is not None:
        refuse_input("--output", output, [folder.checkpoint(name) for name in ("best", "last")])
    form = Form(to, batch, opset or OPSET, precision)  # type: ignore[arg-type]
    return export_run(folder, checkpoint, form, output)


def refuse_unlike(result: "Result") -> None:
    """Raise CheckpointError if the file does not answer as the model does."""
    if not result.verified.passed:
        what = "the file does not answer as the model does: it is below the bar in the table"
        raise CheckpointError(what, where=f"kept as {shown(result.path.absolute())}", fix=result.fix)
