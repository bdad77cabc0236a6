"""What the run was made of: data, config, environment; and the commands that go on from here."""

import json
import re
import shlex
from typing import Any

from mlcli.report.page.markup import Html, command, el, fold, join, section, text
from mlcli.report.record import Record
from mlcli.text import shown

LINE = re.compile(r"""(?P<comment>(?:^|(?<=\s))\#.*)|(?P<string>"(?:\\.|[^"\\])*"|'(?:''|[^'])*')
    |(?P<key>[\w.+-]+(?=\s*:(?:\s|$)))|(?P<value>\b(?:true|false|null)\b|(?<![\w.])[+-]?\d[\d_.]*(?:e[+-]?\d+)?(?![\w.]))""",
    re.VERBOSE)  # fmt: skip


def data(record: Record) -> Html | None:
    """What was said about the data and the model before training."""
    lines = [line for line in record.summary.get("describe") or [] if isinstance(line, list) and len(line) == 2]
    if not lines:
        return None
    rows, subject = [], ""
    for name, words in lines:
        subject = str(name) if name and name != subject else ""
        rows.append(el("div", el("dt", subject), el("dd", words)))
    return section("data", "Data and model", None, el("dl", *rows, class_="pairs"))


def config(record: Record) -> Html | None:
    """The resolved YAML, coloured."""
    if not record.config_text:
        return None
    lede = "Everything spelled out, defaults included; it is itself a YAML that can be trained."
    code = el("pre", el("code", highlighted(record.config_text)), tabindex="0")
    return section("config", "Config", lede, fold("resolved.yaml", code, open_=True))


def highlighted(yaml: str) -> Html:
    """Keys, strings, numbers and comments marked; everything escaped."""
    return join((_coloured(line) for line in yaml.splitlines()), "\n")


def _coloured(line: str) -> Html:
    parts, done = [], 0
    for found in LINE.finditer(line):
        parts += [text(line[done : found.start()]), el("span", found.group(), class_=found.lastgroup)]
        done = found.end()
    return join([*parts, text(line[done:])])


def environment(record: Record) -> Html | None:
    """Versions and choices of the machine."""
    rows: list[Html] = []
    for name, value in record.environment.items():
        inner = value if isinstance(value, dict) else {name: value}
        rows += [el("div", el("dt", key), el("dd", _plain(v))) for key, v in inner.items() if v not in ([], "", None)]
    if not rows:
        return None
    return section("environment", "Environment", None, el("dl", *rows, class_="pairs"))


def commands(record: Record) -> Html:
    """What to type to go on."""
    root = shlex.quote(shown(record.path.parent.parent))
    state = record.status.get("state")
    typed = [
        (f"mlcli train --resume {record.name}", "go on where it stopped")
        if state in ("interrupted", "killed", "diverged", "failed")
        else (f"mlcli evaluate {record.name} --split {record.split}", "measure it again, with every class"),
        (f"mlcli predict {record.name} FILES", "answers for your own files"),
        (f"mlcli runs compare {record.path.parent.name}", "beside the runs of the same name"),
        (f"tensorboard --logdir {root}", "histograms, graph and more"),
        (f"mlcli report {record.name}", "write this page again"),
    ]
    return section("next", "To go on", None, *(command(what, why) for what, why in typed))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
