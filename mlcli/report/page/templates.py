"""The page's templates, which hold its markup. All values are escaped, and none acts on a reader's eye (`visible`)."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mlcli.text import visible

TEMPLATES = Environment(
    loader=PackageLoader("mlcli.report", "page"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
    finalize=lambda value: type(value)(visible(value)) if isinstance(value, str) else value,
)


def macros(name: str) -> Any:
    """Return the macros of a template as functions."""
    return TEMPLATES.get_template(name).module
