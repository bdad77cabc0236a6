"""The page itself: sections in the order a person asks, the stylesheet and the script inside, written as one file."""

import base64
import hashlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from mlcli.engine.run import RunFolder
from mlcli.files import write_atomically
from mlcli.report.page import answers, beside, gallery, head, inside, matrix, progress, setup, sureness
from mlcli.report.page.markup import Html, el, section
from mlcli.report.record import Record

NAME = "report.html"
Make = Callable[[Record], Html | None]
SECTIONS: tuple[tuple[str, Make], ...] = (
    ("scores", head.scores),
    ("curves", progress.curves),
    ("baselines", beside.baselines),
    ("confusion", matrix.confusion),
    ("residuals", answers.residuals),
    ("errors", answers.breakdown),
    ("classes", answers.classes),
    ("quality", sureness.quality),
    ("pictures", gallery.pictures),
    ("layers", inside.layers),
    ("time", inside.times),
    ("data", setup.data),
    ("config", setup.config),
    ("environment", setup.environment),
    ("next", setup.commands),
)


def write_report(run: RunFolder) -> Path:
    """Write report.html into a run folder, from what lies there alone. Returns its path. Raises OutputError."""
    path = run.path / NAME
    write_atomically(path, page(Record.read(run)).encode())
    return path


def page(record: Record) -> str:
    """The whole page. It loads nothing: its own policy forbids every address but pictures inside it."""
    script, style = _inside("page.js"), _inside("page.css")
    shown = [(name, made) for name, make in SECTIONS if (made := _made(name, make, record)) is not None]
    top = [_made("", make, record) for make in (head.header, head.hero, head.facts)]
    links = [el("a", name, href=f"#{name}") for name, _ in shown]
    closing = f"{record.name} · written by mlcli {record.environment.get('mlcli', '')}".rstrip()
    body = el(
        "main",
        *top,
        el("nav", *links, aria_label="sections"),
        *(made for _, made in shown),
        el("footer", closing),
    )
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{_fingerprint(script)}'"
    headed = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{record.path.parent.name} · mlcli"),
        el("link", rel="icon", href="data:,"),
        el("style", Html(style)),
    )
    return f"<!doctype html>\n{el('html', headed, el('body', body, el('script', Html(script))), lang='en')}\n"


def _made(name: str, make: Make, record: Record) -> Html | None:
    """A part of the page; where the files it needs are not as they were written, a sentence that says so.

    A page that shows the rest is worth more than none, above all at the end of a long run.
    """
    try:
        return make(record)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError) as error:
        words = f"This part could not be drawn: files of the run are not as they were written ({error!r})."
        return section(name, name.capitalize(), words)


def _inside(name: str) -> str:
    return files("mlcli.report.page").joinpath(name).read_text(encoding="utf-8")


def _fingerprint(script: str) -> str:
    """By which the policy knows the page's own script from any other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
