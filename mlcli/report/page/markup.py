"""HTML and SVG as values: every text is escaped unless it was made here, so a class named `<script>` stays a name."""

import html
from collections.abc import Iterable, Sequence

VOID = ("img", "meta", "link", "br", "hr")


class Html(str):
    """Text that is markup already. Only this package makes it."""

    __slots__ = ()


def text(value: object) -> Html:
    """A value as text of the page."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after the other, each escaped unless it is markup; None is left out."""
    return Html(between.join(text(part) for part in parts if part is not None))


def el(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. Attributes: `class_` for class, hyphens for underscores; None and False leave one out, True has no
    value."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def section(anchor: str, title: str, lede: object, *content: object) -> Html:
    """A part of the page: heading, a sentence on how to read it, and what it shows."""
    return el(
        "section",
        el("h2", title),
        el("p", lede, class_="lede") if lede else None,
        *content,
        id=anchor,
    )


def data_table(
    header: Sequence[object], rows: Iterable[Sequence[object]], *, left: int = 1, class_: str = "data"
) -> Html:
    """A table that scrolls by itself where the screen is narrow; from column `left` on, cells are numbers."""

    def line(kind: str, cells: Sequence[object]) -> Html:
        return el("tr", *(el(kind, cell, class_="num" if i >= left else None) for i, cell in enumerate(cells)))

    table = el("table", el("thead", line("th", header)), el("tbody", *(line("td", row) for row in rows)), class_=class_)
    return el("div", table, class_="scroll", tabindex="0")


def figure(title: object, content: object, *, note: object = None, class_: str = "chart") -> Html:
    """Something drawn, below its name."""
    caption = el("figcaption", el("strong", title), el("span", note) if note else None)
    return el("figure", caption, content, class_=class_)


def fold(title: str, *content: object, open_: bool = False) -> Html:
    """Content that can be opened and closed."""
    return el("details", el("summary", title), *content, open=open_)


def command(typed: str, why: str = "") -> Html:
    """A line to be typed, with a button that copies it."""
    return el(
        "div",
        el("code", typed),
        el("button", "copy", type="button", class_="copy", aria_label=f"copy: {typed}"),
        el("span", why, class_="why") if why else None,
        class_="command",
    )
