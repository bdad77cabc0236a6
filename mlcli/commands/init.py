"""`mlcli init`: a commented YAML to start from, as the tasks propose it for some data; `mlcli schema`: all its keys."""

import json
import os
from pathlib import Path

from mlcli import experiment
from mlcli.commands.common import refuse_input
from mlcli.data.draft import Draft, as_comment
from mlcli.errors import ConfigError
from mlcli.files import write_atomically, write_output
from mlcli.schema.explain import closest
from mlcli.show.terminal import fitted
from mlcli.text import command_line, listed

SCHEMA_FILE = "mlcli.schema.json"
"""Lies next to the YAML, shared by all YAMLs of the folder; a web address would need a network and fit one version."""
COMMENT_COLUMN = 24
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".parquet", ".gz", ".zip", ".json", ".jsonl")
SAID = ("Column to predict: ", "Folders taken for splits", "Photographs: ", "ImageNet's weights", "Left out, as names",
        "Its classes are numbers")  # fmt: skip
"""Beginnings of facts that are said on the screen, not only in the YAML."""
YAML_ENDINGS = (".yaml", ".yml", "")


def run(
    what: str = "digits",
    output: Path = Path("config.yaml"),
    force: bool = False,
    *,
    target: str = "",
    task: str = "",
    minutes: float | None = None,
    pretrained: bool = False,
    model: str = "",
) -> None:
    """Write a YAML for `what` (a built-in data set, a folder or a file), and the editors' schema.

    target: the column of a CSV file to predict; task: the only one to ask; minutes: how long the training may take. All
    are guessed where they are not given.
    pretrained: start from weights learned elsewhere. model: the detector to propose.

    Raises ConfigError if there is nothing of that name or the file exists, DataError if nothing can be learned from the
    data, OutputError if the files cannot be written.
    """
    if os.path.lexists(output) and not force:
        raise ConfigError(f"{output} exists already", fix="--force overwrites it, --output NAME writes another file")
    _refuse_data(output, Path(os.path.expanduser(what)))
    if task and task not in experiment.TASKS:
        raise ConfigError(f"there is no task '{task}'", where="--task", fix=f"give {listed([*experiment.TASKS], 'or')}")
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"{minutes:g} minutes are no time to train in", where="--minutes", fix="--minutes 10")
    draft = _draft(what, output.parent, target, task, minutes, pretrained, model)
    if minutes is not None and not draft.is_timed:
        what = "only for annotated pictures is the length known from the time"
        raise ConfigError(what, where="--minutes", fix="leave it out, and change train.epochs after the first epoch")
    if model and not draft.model:
        what = "only for annotated pictures is there a choice of models"
        raise ConfigError(what, where="--model", fix="leave it out, and change the model section of the YAML")
    if pretrained and not draft.pretrained:
        what = f"for {what} there are no weights learned elsewhere"
        raise ConfigError(what, where="--pretrained", fix="leave it out; it is for images in class folders or a list")
    train = as_comment(command_line("train", output))
    lines = [
        f"# yaml-language-server: $schema=./{SCHEMA_FILE}",
        *(f"# {fact}" for fact in draft.facts),
        f"# Train with: {train}   Try another value: {train} optimizer.lr=0.01",
    ]
    for line in draft.sections.splitlines():
        code, tab, comment = line.partition("\t")
        lines.append(f"{code:<{COMMENT_COLUMN - 2}}  {comment}" if tab else code)
    schema = output.parent / SCHEMA_FILE
    write_atomically(schema, json.dumps(experiment.json_schema(), indent=1).encode() + b"\n")
    write_output(output, "\n".join(lines).encode() + b"\n")
    print(fitted(f"wrote {output} ({len(lines)} lines) and {schema}, with which editors complete and check it"))
    for fact in draft.facts:
        if fact.startswith("WARNING: "):
            print(fitted(fact.removeprefix("WARNING: "), "warning: "))
        elif fact.startswith(SAID):
            print(fitted(fact))
    print(f"next: {command_line('train', output)}")


def _refuse_data(output: Path, data: Path) -> None:
    """Raise ConfigError if the YAML would take the place of data, or be taken for some."""
    refuse_input("--output", output, [data])
    if output.suffix.lower() not in YAML_ENDINGS:
        raise ConfigError(f"{output} is not the name of a YAML", where="--output", fix="--output config.yaml")
    if output.is_file() and data.is_dir() and data.resolve() in output.resolve().parents:
        with open(output, "rb") as file:
            if b"task:" not in file.read(2**16):
                what = f"{output} is no YAML of mlcli, and belongs to the data"
                raise ConfigError(what, where="--output", fix="another name for --output")


def run_schema(markdown: bool = False) -> None:
    """Print the JSON schema of the YAML, or with `markdown` the text of docs/config.md."""
    if markdown:
        print(experiment.reference(), end="")
    else:
        print(json.dumps(experiment.json_schema(), indent=2))


def _draft(
    what: str, folder: Path, target: str, task: str, minutes: float | None, pretrained: bool, model: str
) -> Draft:
    """Return the template of that name, or what the first task proposes that recognises a path.

    folder: of the YAML, which relative paths start from. Raises ConfigError or DataError.
    """
    starters = experiment.starters(task)
    templates = {name: template for starter in starters for name, template in starter.TEMPLATES.items()}
    if what in templates:
        fact, _, sections = templates[what].read_text(encoding="utf-8").partition("\n")
        return Draft([fact.removeprefix("# ")], sections)
    path, files = Path(os.path.expanduser(what)), "a folder of images, of annotated pictures, or a .csv file"
    if not path.exists():
        near = closest(what, sorted(templates))
        fix = f"did you mean {near}?" if near else f"give {', '.join(sorted(templates))}, {files}"
        raise ConfigError(f"there is no data set, folder or file called {what}", fix=fix)

    from mlcli.data.survey import Place

    place = Place(path, folder, target, task, minutes, pretrained, model)
    if draft := next(filter(None, (starter.propose(place) for starter in starters)), None):
        return draft
    if task:
        raise ConfigError(f"{what} holds nothing that a {task} learns from", where="--task", fix="leave it out")
    fix = "open it, and save it as .csv (UTF-8)" if path.suffix.lower() in SPREADSHEETS else f"give {files}"
    raise ConfigError(f"{what} is neither a folder nor a CSV file", fix=fix)
