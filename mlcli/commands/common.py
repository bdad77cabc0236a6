"""Shared by the commands: the experiment named on the command line, lines of progress, files written, advice applied.

No torch in here, so that every command may import it at once.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.commands.typed import yaml_here
from mlcli.errors import CheckpointError, ConfigError, DataError
from mlcli.experiment import Experiment, is_override_of
from mlcli.files import refuse_links, write_atomically
from mlcli.outputs import make_output_folder, png
from mlcli.show.terminal import paint
from mlcli.text import command_line, paragraphs, shown

if TYPE_CHECKING:
    from PIL.Image import Image

    from mlcli.engine.contract import Task
    from mlcli.engine.predicting import Record
    from mlcli.engine.run import RunFolder
    from mlcli.engine.runtime import Runtime


SUBJECT = 11
"""Columns that the subject of a line takes."""
DEFAULT_OVERLAP = 0.2
"""Share of a tile that the next one sees too."""


def load_experiment(command: str, config: Path | None, overrides: Sequence[str]) -> Experiment:
    """Read the YAML given to `mlcli <command>`. Raises ConfigError, also if none was given, or something else."""
    if config is None:
        near = yaml_here()
        start = "" if Path(near).exists() else f"mlcli init digits -o {near} && "
        raise ConfigError("which YAML?", where=f"mlcli {command}", fix=start + command_line(command, near, *overrides))
    if not config.is_file() and config.suffix not in (".yaml", ".yml"):
        from mlcli.engine.run import open_run

        with contextlib.suppress(CheckpointError):
            run = open_run(config)
            fix = f"{command_line('train', '--resume', run.name)} goes on with it"
            raise ConfigError(f"{config} is a run, and {command} takes a YAML", fix=fix)
    if config.suffix.lower() in (".csv", ".tsv") and config.is_file():
        fix = f"{command_line('init', config)} writes one for it"
        raise ConfigError(f"{config} is a table, and {command} takes a YAML", fix=fix)
    return Experiment.load(config, overrides)


def open_task(experiment: Experiment, root: Path) -> "tuple[Task, Runtime]":
    """Find the data and make the task, and say where it computes. Raises UserError, first where nothing can be written
    below `root`."""
    from mlcli.engine.run import check_writable
    from mlcli.engine.runtime import decide_runtime

    check_writable(root)
    runtime = decide_runtime(experiment.config)
    task = experiment.build()
    return task, runtime.for_model(task.model)


def is_exported(text: str) -> bool:
    """Whether what a person named as a run is an exported file, by its ending."""
    return Path(text).suffix.lower() in (".onnx", ".pt2")


def find_run(text: str, root: Path) -> "RunFolder":
    """Return the run that a folder or a name means. Where a name means one of several, standard error says which.

    Raises CheckpointError if there is none.
    """
    from mlcli.engine.run import RUN_NAME, open_run

    run = open_run(text, root)
    others = len(list(run.path.parent.glob("*/status.json")))
    if others > 1 and not RUN_NAME.fullmatch(Path(text).name) and Path(text).resolve() != run.path.resolve():
        print(f"run        {run.name}, the newest of {others} of this name", file=sys.stderr)
    return run


def tiles_asked(side: int | None, overlap: float | None) -> tuple[int, float] | None:
    """Return side and overlap of the tiles that --tiles and --overlap ask for; None for none. Raises ConfigError."""
    if side is None and overlap is not None:
        what = "only tiles overlap, and none are asked for"
        raise ConfigError(what, where="--overlap", fix=f"--tiles 640 --overlap {overlap:g}")
    return None if side is None else (side, DEFAULT_OVERLAP if overlap is None else overlap)


def say(lines: Iterable[tuple[str, str]]) -> None:
    """Print lines of a subject and a text, each at once; the subject in bold, where it is a warning in yellow."""
    for subject, text in lines:
        shown = paragraphs([(subject, text)], SUBJECT)
        style = "yellow" if subject == "warning" else "bold"
        print(paint(shown[:SUBJECT], style) + shown[SUBJECT:], flush=True)


def show_progress(text: str) -> None:
    """Put `text` on the one line of stderr that is overwritten, or clear it if empty; on a terminal only."""
    if sys.stderr and sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def write_file(path: Path, content: bytes) -> str:
    """Write a file whole or not at all, and its folder if there is none. Returns the path as a person would type it.

    Raises OutputError, also where the folder is a link.
    """
    refuse_links(path.parent)
    make_output_folder(path.parent)
    write_atomically(path, content)
    return shown(path.absolute())


def refuse_input(option: str, output: Path, inputs: Iterable[Path | str]) -> None:
    """Raise ConfigError if what is to be written is one of the files or folders that are read, whatever it is called:
    nothing replaces a person's data."""
    for path in inputs:
        with contextlib.suppress(OSError, ValueError):  # one of them is not there: they are not the same
            if os.path.samefile(output, path):
                what = f"{output} is read, and would be replaced"
                raise ConfigError(what, where=option, fix=f"another name for {option}")


def refuse_failed(failed: "Sequence[Record]", count: int, what: str) -> None:
    """Raise DataError if some of so many records have an error in place of an answer. what: they are of."""
    if failed:
        frame = f", frame {failed[0]['frame']}" if "frame" in failed[0] else ""
        raise DataError(
            f"{len(failed)} of {count} {what} could not be answered",
            where=f"the first: {failed[0]['input']}{frame}: {failed[0]['error']}",
            fix="each has its reason as 'error' in its record",
        )


def write_picture(path: Path, picture: "Image") -> str:
    """Write a picture as PNG, like `write_file`."""
    return write_file(path, png(picture))


def refuse_apply(config: Path, overrides: Sequence[str], section: str) -> None:
    """Raise ConfigError, before anything is measured, where `--apply` could not write the section as it was judged."""
    from mlcli.schema.edit import refuse_to_apply

    refuse_to_apply(config)
    for override in overrides:
        if is_override_of(section, override):
            what = f"with --apply, {section} keys cannot be overridden: the advice is about the file"
            raise ConfigError(what, where=override, fix="drop the override or the --apply")


def apply_advice(config: Path, section: str, changes: dict[str, Any], summary: str) -> list[tuple[str, str]]:
    """Write changes of a section into the YAML, where there are any. Returns the line to print.

    summary: the changes in words. Raises ConfigError, OutputError.
    """
    from mlcli.schema import edit

    if not changes:
        return [("apply", f"nothing to write: {config} is unchanged")]
    edit.apply(config, section, changes)
    Experiment.load(config)
    return [("apply", f"wrote {summary} into {config}")]
