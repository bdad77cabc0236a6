"""`mlcli export`: a run's model as one ONNX or .pt2 file, verified beside the model on the run's own data."""

from pathlib import Path

from mlcli.commands.common import find_run, is_exported, refuse_input, say
from mlcli.errors import CheckpointError, ConfigError
from mlcli.text import command_line, shown, size, table


def run(
    run: str,
    to: str,
    *,
    output: Path | None = None,
    batch: str = "dynamic",
    opset: int | None = None,
    checkpoint: str = "best",
    root: Path = Path("runs"),
) -> None:
    """Write the file, and print how it compares with the model.

    Args:
        run: folder or name of a run.
        to: "onnx" or "pt2".
        output: the file; None for `model.onnx` or `model.pt2` in the run folder.
        batch: samples that the file takes at once, or "dynamic".
        opset: of ONNX.
        checkpoint: "best" or "last".

    Raises ConfigError for a model that cannot be exported, CheckpointError, after the file was kept under another name,
    if its answers are not the model's.
    """
    if to not in ("onnx", "pt2"):
        raise ConfigError(f"'{to}' is no format", where="--to", fix="onnx or pt2")
    if batch != "dynamic" and not (batch.isascii() and batch.isdigit() and 1 <= int(batch[:9]) <= 65536):
        raise ConfigError(f"'{batch}' is no number of samples", where="--batch", fix="a number such as 1, or dynamic")
    if opset is not None and to != "onnx":
        raise ConfigError("only ONNX has an opset", where="--opset", fix="leave it out")
    if is_exported(run):
        raise ConfigError(f"{run} is exported already", where="RUN", fix="name the run that it comes from")
    folder = find_run(run, root)

    from mlcli.export.run import export_run
    from mlcli.export.write import OPSET, OPSETS, Form

    if opset is not None and opset not in OPSETS:
        raise ConfigError(f"opset {opset} cannot be written", where="--opset", fix=f"{OPSETS[0]} to {OPSETS[-1]}")
    if output is not None:
        refuse_input("--output", output, [folder.checkpoint(name) for name in ("best", "last")])
    form = Form(to, None if batch == "dynamic" else int(batch), opset or OPSET)  # type: ignore[arg-type]
    result = export_run(folder, checkpoint, form, output)
    name = shown(result.path.absolute())
    kind = [f"opset {form.opset}"] if to == "onnx" else []
    say(
        [
            ("file", ", ".join([name, size(result.size_bytes), *kind, f"batch {batch}"])),
            ("verified", result.verified.on),
        ]
    )
    print("\n" + table(["", "model", to, "bar"], result.verified.rows) + "\n")
    if not result.verified.passed:
        what = "the file does not answer as the model does: it is below the bar in the table"
        raise CheckpointError(what, where=f"kept as {name}", fix="use the run itself, or another format")
    if to == "onnx":
        say([("use", f"{command_line('predict', name, 'FILES')}")])
