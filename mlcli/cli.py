"""Every command's signature and help line. Heavy imports wait inside the function bodies, so that help is instant."""

import contextlib
import functools
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from mlcli.engine.limits import spin_briefly
from mlcli.engine.processes import place
from mlcli.engine.stop import Unwinding
from mlcli.errors import ConfigError, ExitCode, OutOfMemoryError, OutputError, UserError, cannot_access
from mlcli.show.terminal import Stdout, StdoutFailed, discard, in_colour
from mlcli.text import visible
from mlcli.version import __version__

app = typer.Typer(
    help="Train, measure and explain PyTorch models from one YAML file.",
    rich_markup_mode=None,  # importing rich costs more than everything else in --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
runs_app = typer.Typer(help="Show all runs, or the differences between some.\n\nExample: mlcli runs compare mlp cnn")
app.add_typer(runs_app, name="runs", invoke_without_command=True)
data_app = typer.Typer(help="Check a data set, or convert it.", no_args_is_help=True)
app.add_typer(data_app, name="data")

FIRST_SCREEN = f"""mlcli {__version__} - train PyTorch models from one YAML file

  mlcli init digits              write config.yaml (handwritten digits, included, no download)
  mlcli data check config.yaml   what is wrong with the data?
  mlcli inspect config.yaml      the model layer by layer, and a batch as it sees it
  mlcli lr-find config.yaml      which learning rate to begin with
  mlcli bench-io config.yaml     is reading faster than training?
  mlcli train config.yaml        train, log to TensorBoard, keep the best model
  mlcli evaluate RUN             measure the saved model on a split
  mlcli predict RUN FILES        labels and probabilities for your own files
  mlcli export RUN --to onnx     one file for other programs, verified beside the model
  mlcli report RUN               one HTML page about a run (made at its end as well)
  mlcli runs                     what was trained, and how well
  mlcli env-check                is the chain GPU - driver - CUDA - PyTorch healthy?
  mlcli --help                   everything else"""

IN_ONE_PROCESS = ("lr-find", "bench-io", "evaluate", "predict", "export", "report")
"""Commands that several processes would each do all of, and write the same files."""

Out = Annotated[Path, typer.Option("--out", help="Folder that holds all runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Checkpoint = Annotated[str, typer.Option("--checkpoint", help="best or last.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the name of one.")]
Size = Annotated[
    int | None, typer.Option("--size", metavar="SIDE", help="Bring images to SIDE pixels, unlike in training.")
]
Tiles = Annotated[
    int | None, typer.Option("--tiles", metavar="SIDE", help="Look for objects in tiles of SIDE pixels of each image.")
]
Overlap = Annotated[
    float | None, typer.Option("--overlap", help="Share of a tile that the next one sees too; 0.2 unless given.")
]
Arguments = Annotated[
    list[str] | None, typer.Argument(metavar="X.yaml [KEY=VALUE ...]", help="The experiment, and keys to override.")
]


@app.callback(invoke_without_command=True)
def first_screen(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(f"mlcli {__version__}")
    elif context.invoked_subcommand is None:
        print(FIRST_SCREEN)
    elif context.invoked_subcommand in IN_ONE_PROCESS and (size := place().size) > 1:
        what = (
            f"'{context.invoked_subcommand}' runs in one process, but this is one of {size} that were started together"
        )
        raise ConfigError(what, where="torchrun or srun", fix="start it without them; 'train' is what several do")


@app.command()
def init(
    what: Annotated[str, typer.Argument(metavar="[digits|xor|scenes|DIR|FILE]", help="Data to learn from.")] = "digits",
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("config.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    target: Annotated[str, typer.Option("--target", metavar="COLUMN", help="Column of a CSV file to predict.")] = "",
    task: Annotated[str, typer.Option("--task", help="Ask this task only, such as regression.")] = "",
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Time to train in, for annotated pictures; 10 unless given.")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Fine-tune ImageNet's weights on photographs.")
    ] = False,
    model: Annotated[
        str, typer.Option("--model", help="For annotated pictures: ssd, retinanet, fcos or faster_rcnn, not yolo.")
    ] = "",
) -> None:
    """Write a commented YAML to start from; for a folder or file it looks at the data first.

    Annotated pictures in the formats of VOC, COCO, YOLO and CSV are recognised.

    Example: mlcli init photos/ -o photos.yaml
    """
    from mlcli.commands import init

    init.run(what, output, force, target=target, task=task, minutes=minutes, pretrained=pretrained, model=model)


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference of every key instead.")] = False,
) -> None:
    """Print the JSON schema of the YAML, for editors.

    Example: mlcli schema > mlcli.schema.json
    """
    from mlcli.commands import init

    init.run_schema(markdown)


@app.command("env-check")
def env_check(as_json: Json = False) -> None:
    """Is the chain GPU - driver - CUDA - PyTorch healthy? Ends in the command to type.

    Exit code 0: fine; 1: warnings; 2: the GPU, or PyTorch itself, cannot be used.

    Example: mlcli env-check
    """
    from mlcli.commands import env_check

    raise typer.Exit(env_check.run(as_json))


@app.command("bench-io")
def bench_io(
    arguments: Arguments = None,
    quick: Annotated[bool, typer.Option("--quick", help="Take about 10 seconds in all instead of 60.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Also read all data once, and time it.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Write the advice into the YAML; comments stay.")] = False,
    fail_under: Annotated[
        float | None,
        typer.Option("--fail-under", metavar="R", min=0, help="Exit 1 below R times the model's throughput."),
    ] = None,
    devices: Annotated[
        str | None, typer.Option("--devices", metavar="N", help="Measure one of N processes that train together here.")
    ] = None,
    as_json: Json = False,
    out: Out = Path("runs"),
) -> None:
    """Measure whether reading is faster than training, and say what to change.

    Example: mlcli bench-io config.yaml loader.workers=4 --quick
    """
    from mlcli.commands import bench_io

    config, overrides = split(arguments)
    budget_s = bench_io.QUICK_S if quick else bench_io.FULL_S
    raise typer.Exit(bench_io.run(config, overrides, budget_s=budget_s, full=full, apply=apply, fail_under=fail_under,
                                  devices=devices, as_json=as_json, root=out))  # fmt: skip


@app.command()
def inspect(
    arguments: Arguments = None,
    arithmetic: Annotated[bool, typer.Option("--arithmetic", help="Show how each output size is computed.")] = False,
    depth: Annotated[
        int | None, typer.Option("--depth", min=0, help="Levels of nested modules to show; 0 for all.")
    ] = None,
    as_json: Json = False,
    out: Out = Path("runs"),
) -> None:
    """Take the model apart: shapes, parameters, FLOPs, receptive field, memory; and one batch as a picture.

    Example: mlcli inspect config.yaml --arithmetic
    """
    from mlcli.commands import inspect

    config, overrides = split(arguments)
    inspect.run(config, overrides, arithmetic=arithmetic, depth=depth, as_json=as_json, root=out)


@app.command("lr-find")
def lr_find(
    arguments: Arguments = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write the suggestion into the YAML; comments stay.")] = False,
    as_json: Json = False,
    out: Out = Path("runs"),
) -> None:
    """Try learning rates from very small to very large on a copy of the model, and suggest one.

    Example: mlcli lr-find config.yaml
    """
    from mlcli.commands import lr_find

    config, overrides = split(arguments)
    lr_find.run(config, overrides, apply=apply, as_json=as_json, root=out)


@data_app.command("check")
def data_check(arguments: Arguments = None, as_json: Json = False, out: Out = Path("runs")) -> None:
    """Find what is wrong with the data, all of it in one pass: damage, duplicates, leaks, labels, balance.

    Exit code 0: nothing that matters; 4: an error was found.

    Example: mlcli data check config.yaml
    """
    from mlcli.commands import data

    config, overrides = split(arguments)
    raise typer.Exit(data.run_check(config, overrides, as_json=as_json, root=out))


@data_app.command("convert")
def data_convert(
    config: Annotated[Path, typer.Argument(metavar="X.yaml", help="An experiment; its pictures are converted.")],
    target: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder to write to; made if it is not there.")
    ] = None,
    to: Annotated[
        str, typer.Option("--to", help="shards; of boxes also coco, voc, yolo_txt or csv, and coco unless given.")
    ] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The same as DIR.")] = None,
    shard_size: Annotated[str, typer.Option("--shard-size", help="Most of a shard, such as 256MB; --to shards.")] = "",
) -> None:
    """Write pictures as tar shards that are read without unpacking, or boxes in another format: COCO, VOC, YOLO, CSV.

    Example: mlcli data convert photos.yaml shards/ --to shards
    """
    from mlcli.commands import data

    data.run_convert(config, target or output, to, shard_size)


@app.command()
def train(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[X.yaml] [KEY=VALUE ...]", help="The experiment, and keys to override."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run; the YAML's own unless given.")] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="RUN", help="Resume this run; auto: the newest of this name."),
    ] = None,
    devices: Annotated[
        str | None, typer.Option("--devices", metavar="N", help="Train in N processes; auto: one for each GPU.")
    ] = None,
    out: Out = Path("runs"),
) -> None:
    """Train a model, keep the best, and say how good it is.

    Example: mlcli train config.yaml optimizer.lr=0.05 train.epochs=30 --name hot
    """
    from mlcli.commands import train

    config, overrides = split(arguments)
    if isinstance(sys.stdout, Stdout):
        sys.stdout.outlives_reader = True  # hours of training are worth more than their last lines
    raise typer.Exit(train.run(config, overrides, name=name, resume=resume, root=out, devices=devices))


@app.command()
def evaluate(
    run: Run,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG.yaml] [KEY=VALUE ...]", help="Of FILE.onnx; keys to override."),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="train, val or test; test unless given.")] = None,
    on: Annotated[
        Path | None, typer.Option("--on", metavar="DATA", help="Measure all of new data: a folder, CSV or annotations.")
    ] = None,
    tta: Annotated[
        str | None, typer.Option("--tta", metavar="flip,scale,shift", help="Average over views of each image.")
    ] = None,
    shift: Annotated[
        str | None, typer.Option("--shift", metavar="A..B", help="Score by shift, in pixels: 0..4 or 0,1,4.")
    ] = None,
    scale: Annotated[str | None, typer.Option("--scale", metavar="A..B", help="Score by size: 0.5..1.5.")] = None,
    rotate: Annotated[str | None, typer.Option("--rotate", metavar="A..B", help="Score by angle, in degrees.")] = None,
    blur: Annotated[str | None, typer.Option("--blur", metavar="A..B", help="Score by blur, in pixels.")] = None,
    noise: Annotated[str | None, typer.Option("--noise", metavar="A..B", help="Score by noise, 0 to 1.")] = None,
    size: Size = None,
    tiles: Tiles = None,
    overlap: Overlap = None,
    checkpoint: Checkpoint = "best",
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Measure the saved model on one split of its data, or on all of new labelled data; or an exported ONNX file.

    Example: mlcli evaluate digits --split val
    """
    from mlcli.commands import evaluate
    from mlcli.commands.common import is_exported
    from mlcli.commands.typed import split_arguments

    config, overrides = None, arguments or []
    if is_exported(run):
        config, overrides = split_arguments(overrides, typed_command())
    changes = {"shift": shift, "scale": scale, "rotate": rotate, "blur": blur, "noise": noise}
    evaluate.run(run, split, overrides, config=config, on=on, checkpoint=checkpoint, root=out, as_json=as_json,
                 views=tta, changes=changes, size=size, tiles=tiles, overlap=overlap)  # fmt: skip


@app.command()
def predict(
    run: Run,
    inputs: Annotated[
        list[Path], typer.Argument(metavar="FILES|DIRS...", help="Images, folders of them, a CSV, a video, or -.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write: .jsonl, .csv; .json for boxes.")
    ] = None,
    pictures: Annotated[Path | None, typer.Option("--pictures", help="Folder for the images with the answers.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Save each image beside a heat map of what in it decided.")
    ] = False,
    top: Annotated[int | None, typer.Option("--top", min=1, help="Only the most probable classes.")] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            "--threshold",
            metavar="[CLASS=]SCORE",
            help="Least score of objects that are shown, of all classes or of one; the run's best unless given.",
        ),
    ] = None,
    invert: Annotated[bool, typer.Option("--invert", help="Swap dark and bright, as for ink on paper.")] = False,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="voc|coco|yolo_txt|csv", help="Write found objects as a data set, to the folder --output."
        ),
    ] = None,
    size: Size = None,
    tiles: Tiles = None,
    overlap: Overlap = None,
    image_ids: Annotated[
        Path | None, typer.Option("--image-ids", help="COCO file with the images' ids, for --output X.json.")
    ] = None,
    as_json: Json = False,
    checkpoint: Checkpoint = "best",
    out: Out = Path("runs"),
) -> None:
    """Predict labels and probabilities for new files.

    Example: mlcli predict digits photos/ -o answers.csv --pictures shown/
    """
    from mlcli.commands import predict

    thresholds = predict.thresholds_typed(threshold or ())
    wanted = predict.Wanted(top, invert, thresholds, size, tiles, overlap)
    with predict.given(inputs) as (paths, called):
        raise typer.Exit(predict.run(run, paths, wanted, output=output, pictures=pictures, explain=explain, to=to,
                                     image_ids=image_ids, as_json=as_json, checkpoint=checkpoint, root=out,
                                     called=called))  # fmt: skip


@app.command()
def export(
    run: Run,
    to: Annotated[str, typer.Option("--to", help="onnx or pt2.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; model.onnx or model.pt2 in the run's folder.")
    ] = None,
    batch: Annotated[str, typer.Option("--batch", metavar="N|dynamic", help="Samples at once.")] = "dynamic",
    opset: Annotated[int | None, typer.Option("--opset", help="Version of ONNX's operators; 18 unless given.")] = None,
    precision: Annotated[str, typer.Option("--precision", help="fp32, or fp16: half the size, ONNX only.")] = "fp32",
    checkpoint: Checkpoint = "best",
    out: Out = Path("runs"),
) -> None:
    """Write the model as one file for other programs, and verify that it answers alike.

    Exit code 5: it does not, and the file is kept under another name.

    Example: mlcli export digits --to onnx -o digits.onnx
    """
    from mlcli.commands import export

    export.run(run, to, output=output, batch=batch, opset=opset, precision=precision, checkpoint=checkpoint, root=out)


@app.command()
def report(run: Run, out: Out = Path("runs")) -> None:
    """Write report.html again: curves, baselines, mistakes and more, in one file that needs no network.

    Example: mlcli report digits
    """
    from mlcli.commands import runs

    runs.run_report(run, out)


@runs_app.callback()
def runs(context: typer.Context, out: Out = Path("runs"), as_json: Json = False) -> None:
    if context.invoked_subcommand is None:
        from mlcli.commands import runs

        runs.run_list(out, as_json)


@runs_app.command("compare")
def compare(
    names: Annotated[list[str], typer.Argument(metavar="A B ...", help="Runs, by folder or name.")],
    out: Out = Path("runs"),
    as_json: Json = False,
) -> None:
    """Compare the configs and results of runs.

    Example: mlcli runs compare mlp cnn
    """
    from mlcli.commands import runs

    runs.run_compare(names, out, as_json)


# --- running ---------------------------------------------------------------------------------------------------------


def split(arguments: list[str] | None) -> tuple[Path | None, list[str]]:
    """Separate the YAML from the overrides. Raises ConfigError."""
    from mlcli.commands.typed import split_arguments

    return split_arguments(arguments or [], typed_command())


@functools.cache
def all_commands() -> Any:
    """Return the commands, as typer makes them of the functions here: once, as it takes a while."""
    return typer.main.get_command(app)


def typed_command() -> Any:
    """Return the command that was typed, as typer has it."""
    command = all_commands()
    for word in sys.argv[1:]:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
    return command


def main() -> None:
    """Run a command; turn an error into a message and an exit code (see errors.py)."""
    stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - None if the caller closed it
    sys.stdout = Stdout(stdout)  # type: ignore[assignment]
    stop = Unwinding()
    try:
        code = _run_command(stop)
        sys.stdout.flush()
    except StdoutFailed as failed:
        discard(stdout)
        code = ExitCode.OK
        if not isinstance(failed.__cause__, BrokenPipeError):  # then the reader, such as head, has had enough
            print(OutputError(f"standard output cannot be written: {failed.__cause__}"), file=sys.stderr)
            code = ExitCode.OUTPUT
    finally:
        sys.stdout = stdout
    if stop():  # neither a thread that waits for its disk nor Python's own way to end after Ctrl-C comes in between
        with contextlib.suppress(AttributeError, OSError):  # standard error may be closed
            sys.stderr.flush()
        os._exit(stop.exit_code)
    sys.exit(code)


def _run_command(stop: Unwinding) -> Any:
    """Run the command line, print messages and return the exit code."""
    try:
        with stop:
            spin_briefly()
            return all_commands()(standalone_mode=False)
    except TyperException as error:
        from mlcli.commands.typed import explained

        answer = explained(error, typed_command())
        print(in_colour(visible(str(answer))), file=sys.stderr)
        return answer.code
    except UserError as error:
        if stop():  # what a signal has broken off may say so by any error
            return stop.exit_code
        print(in_colour(visible(str(error))), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        if stop():
            return stop.exit_code
        if told := in_words(error):
            print(in_colour(visible(str(told))), file=sys.stderr)
            return told.code
        traceback.print_exc()
        print("This is a bug in mlcli; the lines above say where.", file=sys.stderr)
        return ExitCode.BUG


def in_words(error: Exception) -> UserError | None:
    """What to say of an error that any code may meet: of a path, or of memory. None for all others, which are bugs."""
    if isinstance(error, OSError) and error.errno is not None:
        return cannot_access(error)
    runtime = sys.modules.get("mlcli.engine.runtime")  # without torch, nothing but Python runs out of memory
    if runtime.is_out_of_memory(error) if runtime else isinstance(error, MemoryError):
        return OutOfMemoryError(f"this does not fit into memory: {str(error) or 'no more is free'}")
    return None
