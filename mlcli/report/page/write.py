"""The page of a run as one file that holds everything: templates filled with what `sections` makes of its record."""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from mlcli.engine.run import RunFolder
from mlcli.files import write_atomically
from mlcli.report.page.sections import SECTIONS, TOP, Make
from mlcli.report.page.templates import TEMPLATES, macros
from mlcli.report.record import Record
from mlcli.show.palette import DARK, LIGHT

NAME = "report.html"


def write_report(run: RunFolder) -> Path:
    """Write report.html into a run folder, from what lies there alone. Returns its path. Raises OutputError."""
    path = run.path / NAME
    write_atomically(path, page(Record.read(run)).encode(errors="backslashreplace"))
    return path


def page(record: Record) -> str:
    """The whole page. It loads nothing: its own policy forbids every address but pictures inside it."""
    script, style = (files("mlcli.report.page").joinpath(name).read_text(encoding="utf-8") for name in
                     ("page.js", "page.css"))  # fmt: skip
    fingerprint = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sections = {name: part for name, make in SECTIONS if (part := _part(name, make, record))}
    return TEMPLATES.get_template("page.html").render(
        title=record.path.parent.name,
        top=[part for name, make in TOP if (part := _part(name, make, record))],
        sections=sections,
        closing=f"{record.name} · written by mlcli {record.environment.get('mlcli', '')}".rstrip(),
        light=LIGHT,
        dark=DARK,
        style=Markup(style),
        script=Markup(script),
        fingerprint=f"sha256-{fingerprint}",
    )


def _part(name: str, make: Make, record: Record) -> Markup | None:
    """A part of the page; where the files it needs are not as they were written, a sentence that says so.

    A page that shows the rest is worth more than none, above all at the end of a long run.
    """
    try:
        values = make(record)
        return None if values is None else getattr(macros("sections.html"), name)(**values)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError) as error:
        return macros("sections.html").broken(name, repr(error))
