"""Shared by the commands: the experiment named on the command line, lines of progress, files written, advice applied.

No torch in here, so that every command may import it at once.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.errors import ConfigError
from mlcli.experiment import Experiment
from mlcli.files import make_folder, refuse_links, write_atomically
from mlcli.text import shown

if TYPE_CHECKING:
    from PIL.Image import Image


def load_experiment(command: str, config: Path | None, overrides: Sequence[str]) -> Experiment:
    """Read the YAML given to `mlcli <command>`. Raises ConfigError, also if none was given."""
    if config is None:
        fix = f"mlcli init digits && mlcli {command} config.yaml"
        raise ConfigError("which YAML?", where=f"mlcli {command}", fix=fix)
    return Experiment.load(config, overrides)


def say(lines: Iterable[tuple[str, str]]) -> None:
    """Print lines of a subject and a text, each at once."""
    for subject, text in lines:
        print(f"{subject:<10} {text}", flush=True)


def show_progress(text: str) -> None:
    """Put `text` on the one line of stderr that is overwritten, or clear it if empty; on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def write_file(path: Path, content: bytes) -> str:
    """Write a file whole or not at all, and its folder if there is none. Returns the path as a person would type it.

    Raises OutputError, also where the folder is a link.
    """
    refuse_links(path.parent)
    make_folder(path.parent)
    write_atomically(path, content)
    return shown(path.absolute())


def write_picture(path: Path, picture: "Image") -> str:
    """Write a picture as PNG, like `write_file`."""
    from mlcli.engine.run import png

    return write_file(path, png(picture))


def is_override_of(section: str, override: str) -> bool:
    """Whether a `key=value` sets the section, or a key in it."""
    return override.partition("=")[0].strip().partition(".")[0] == section


def refuse_apply(config: Path, overrides: Sequence[str], section: str) -> None:
    """Raise ConfigError, before anything is measured, where `--apply` could not write the section as it was judged."""
    from mlcli.schema.edit import refuse_to_apply

    refuse_to_apply(config)
    for override in overrides:
        if is_override_of(section, override):
            raise ConfigError(
                f"with --apply, {section} keys cannot be overridden: the advice is about the file",
                where=override,
                fix="drop the override or the --apply",
            )


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
