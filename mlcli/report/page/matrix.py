"""What is taken for what: the confusion matrix as a heat map, legible from 2 to 100 classes, and the worst pairs."""

from collections.abc import Sequence

from mlcli.report.confusion import Confusion, Pair
from mlcli.report.page.markup import Html, el, join, section
from mlcli.report.record import Record
from mlcli.text import truncated

LARGEST = 100
"""Classes that a matrix shows; of more, those with most mistakes."""
MOST_NUMBERS = 20
"""Classes up to which the cells carry their counts."""
WIDE = 30
"""Classes from which the matrix has the page's width for itself."""
MOST_PAIRS = 8
CELL, GAP = 10, 0.4
"""Units of a cell, and of what is left free between two."""
NARROWEST_CELL = 10.4
"""Pixels; 100 of them fill the page. Narrower, names beside the cells could not be read: the matrix scrolls instead."""
BESIDE = 560
"""Pixels that a matrix has beside the list of pairs."""
LETTERS_PX, LETTER_WIDTH = 13, 0.56
"""Size of the names' type, and the width of a letter as a share of it."""
STRONG = 0.55
"""Opacity of a cell from which its number is written in the colour of the paper."""
LONGEST_NAME = 14


def confusion(record: Record) -> Html | None:
    """The matrix and the pairs most often confused."""
    found = Confusion.of(record.detail)
    if found is None:
        return None
    part = found.only(LARGEST)
    cut = f" Of {len(found.names)} classes, the {len(part.names)} with most mistakes." if part is not found else ""
    split = record.detail.get("split", record.split)
    lede = f"Rows are the truth, columns what the model said, on the {split} split.{cut}"
    pairs = found.pairs(MOST_PAIRS)
    nothing = found.names[-1] if record.detail.get("confusion_names") else None
    told = [el("h3", "Most often confused"), *(_pair(pair, pairs[0], nothing) for pair in pairs)]
    side = el("div", *told) if pairs else el("p", "No mistake at all.", class_="muted")
    beside = "matrix-side wide" if len(part.names) > WIDE else "matrix-side"
    return section("confusion", "What it confuses", lede, el("div", _matrix(part), side, class_=beside))


def _matrix(part: Confusion) -> Html:
    """Cells by the share of their row; mistakes grow visible early, by the root of their share."""
    count = len(part.names)
    narrowest, widest = NARROWEST_CELL * count, max(380, min(1040, 64 * count))
    size, room = _lettering(part.names, widest if count > WIDE else min(widest, BESIDE))
    whole = count * CELL
    drawing = el(
        "svg",
        el("title", "confusion matrix: rows are the truth, columns the answers"),
        el("rect", x=0, y=0, width=whole - GAP, height=whole - GAP, class_="empty"),
        *_cells(part, size if count <= MOST_NUMBERS else None),
        *(name for i, label in enumerate(part.names) for name in _names_of(label, i, size)),
        viewBox=f"{-room:.1f} {-room:.1f} {whole + room:.1f} {whole + room:.1f}",
        class_="matrix",
        role="img",
        style=f"min-width:{narrowest:g}px;max-width:{widest}px",
    )
    return el("div", drawing, class_="scroll", tabindex="0")


def _lettering(names: Sequence[str], width_px: float) -> tuple[float, float]:
    """Type size of the names, and room for the longest, in the drawing's units; LETTERS_PX if it gets that width."""
    longest = min(max(map(len, names)), LONGEST_NAME) * LETTER_WIDTH
    # As units per pixel = (cells + room) / width, and room = longest * size + a margin:
    size = LETTERS_PX * (len(names) + 0.4) * CELL / max(1.0, width_px - LETTERS_PX * longest)
    size = min(0.8 * CELL, size)
    return size, longest * size + 0.4 * CELL


def _cells(part: Confusion, size: float | None) -> list[Html]:
    """The counts that are not 0, written in type of this size, or not at all."""
    cells, middle = [], (CELL - GAP) / 2
    for row, column in zip(*part.counts.nonzero(), strict=True):
        n, of, hit = int(part.counts[row, column]), int(part.support[row]), row == column
        x, y, share = int(column) * CELL, int(row) * CELL, n / of
        title = f"{part.names[row]} → {part.names[column]}: {n:,} of {of:,} ({share:.0%})"
        strength = 0.12 + 0.88 * (share if hit else share**0.5)
        cells.append(el("rect", el("title", title), x=x, y=y, width=CELL - GAP, height=CELL - GAP,
                        class_="hit" if hit else "miss", fill_opacity=f"{strength:.2f}"))  # fmt: skip
        if size:
            type_size = min(1.1 * size, 0.36 * CELL) * (1.0 if n < 1000 else 0.85)
            cells.append(el("text", f"{n:,}" if n < 10_000 else f"{n / 1000:.0f}k", x=f"{x + middle:.1f}",
                            y=f"{y + middle + 0.36 * type_size:.2f}", font_size=f"{type_size:.2f}",
                            class_="inside strong" if strength > STRONG else "inside"))  # fmt: skip
    return cells


def _names_of(name: str, place: int, size: float) -> tuple[Html, Html]:
    """A class's name before its row and, turned, above its column."""
    short, middle = truncated(name, LONGEST_NAME), place * CELL + CELL / 2 + size * 0.33
    turned = f"translate({middle:.2f},{-0.18 * CELL}) rotate(-90)"
    title = el("title", name)
    return (el("text", title, short, x=-0.15 * CELL, y=f"{middle:.2f}", class_="row", font_size=f"{size:.2f}"),
            el("text", title, short, transform=turned, class_="column", font_size=f"{size:.2f}"))  # fmt: skip


def _pair(pair: Pair, worst: Pair, nothing: str | None) -> Html:
    """nothing: the name under which a detector's matrix counts what is no object."""
    if pair.truth == nothing:
        names = join([el("b", pair.answer), " where nothing is"])
    elif pair.answer == nothing:
        names = join([el("b", pair.truth), " missed"])
    else:
        names = join([el("b", pair.truth), " taken for ", el("b", pair.answer)])
    share = el("span", el("i", style=f"width:{100 * pair.count / worst.count:.1f}%"), class_="track")
    value = el("span", f"{pair.count:,} of {pair.of:,}", class_="value")
    return el("div", el("span", names, class_="name"), value, share, class_="pair")
