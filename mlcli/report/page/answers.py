"""Sections of the page on the model's answers: confusion, residuals, mistakes, classes, curves and pictures."""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from mlcli.data.decode import opened
from mlcli.data.jpeg import MOST_FILE_BYTES
from mlcli.errors import DataError
from mlcli.reading import read_file
from mlcli.report.page import svg
from mlcli.report.record import SPLITS, Record, in_words, is_number, mapping
from mlcli.show import evaluation
from mlcli.show.charts import Confusion
from mlcli.show.details import Evaluation
from mlcli.show.palette import PAPER
from mlcli.text import number

Values = dict[str, Any]
"""Arguments of a section's macro in sections.html."""

MOST_CLASSES, MOST_PAIRS = 40, 8
MOST_PICTURES = 24
LARGE_BYTES = 300_000
"""Above, a picture is kept as WebP, which is several times smaller and looks the same."""
WEBP_QUALITY = 85
WIDE = 700
"""Pixels from which a picture has a row of the page for itself."""


def confusion(record: Record) -> Values | None:
    """The matrix and the pairs most often confused."""
    found = evaluation.confusion(record.detail)
    if not found:
        return None
    matrix = found[0]
    count, most = len(matrix.names), min(len(matrix.names), svg.LARGEST)
    cut = f" Of {count:,} classes, the {most} with most mistakes." if most < count else ""
    nothing = matrix.names[-1] if record.detail.get("confusion_names") else None
    pairs = matrix.pairs(MOST_PAIRS)
    return {
        "lede": f"Rows are the truth, columns what the model said, on the {record.detail_split} split.{cut}",
        "matrix": svg.drawn(matrix),
        "wide": most > svg.WIDE,
        "pairs": [
            (*_confused(p, nothing), f"{p.count:,} of {p.of:,}", svg.track(p.count / pairs[0].count)) for p in pairs
        ],
    }


def _confused(pair: Confusion, nothing: str | None) -> tuple[str, str, str]:
    """A name, words, and another name. nothing: the name under which a detector's matrix counts what is no object."""
    if pair.truth == nothing:
        return pair.answer, " where nothing is", ""
    return (pair.truth, " missed", "") if pair.answer == nothing else (pair.truth, " taken for ", pair.answer)


def residuals(record: Record) -> Values | None:
    """Predictions of a regression over the truth, and how far they miss."""
    detail: Evaluation = {**record.detail, "unit": record.data_facts.get("target", "")}
    charts = [*evaluation.predicted_and_true(detail), *evaluation.residuals(detail)]
    if not charts:
        return None
    quantiles = mapping(detail["residuals"].get("quantiles"))
    return {
        "lede": f"Predicted minus true values on the {record.detail_split} split; a slope or a funnel shows what "
        "the model does not know.",
        "drawn": [svg.drawn(chart) for chart in charts],
        "header": list(quantiles),
        "row": [number(value) for value in quantiles.values()],
    }


def errors(record: Record) -> Values | None:
    """Kinds of mistakes of a detector, by what fixing each would add to the score."""
    found = evaluation.mistakes(record.detail)
    lede = "What fixing one kind of mistake alone would add to the mean average precision at an IoU of 0.5."
    return {"lede": lede, "bars": svg.drawn(found[0])} if found else None


def importance(record: Record) -> Values | None:
    """Columns of a table by what the answers lose without them."""
    found = evaluation.importance(record.detail)
    lede = f"How much worse the answers on the {record.detail_split} split become when the values of one column are "
    lede += "shuffled among the samples. Columns that say the same stand in for each other."
    return {"lede": lede, "bars": svg.drawn(found[0])} if found else None


def classes(record: Record) -> Values | None:
    """A row per class with every number there is on it, the weakest first."""
    rows: list[dict[str, Any]] = [
        dict(c) for c in record.detail.get("classes") or [] if isinstance(c, dict) and "name" in c
    ]
    keys = [key for key in (rows[0] if rows else ()) if key != "name" and any(is_number(row.get(key)) for row in rows)]
    if not keys:
        return None
    by = next((key for key in ("ap", "f1", "recall") if key in keys), keys[0])
    rows = sorted(rows, key=lambda c: _finite(c.get(by)) if c.get(by) is not None else math.inf)

    def cell(c: dict[str, Any], key: str) -> str:
        value = c.get(key)
        text = f"{value:,}" if isinstance(value, int) else number(value if isinstance(value, float) else None)
        meter = Markup('<span class="meter">{}{}</span>')
        return meter.format(text, svg.track(_finite(value))) if key == by else text

    written = [[c["name"], *(cell(c, key) for key in keys)] for c in rows]
    return {
        "lede": f"On the {record.detail_split} split, the weakest first by {in_words(by)}.",
        "header": ["class", *map(in_words, keys)],
        "first": written[:MOST_CLASSES],
        "rest": written[MOST_CLASSES:],
    }


def quality(record: Record) -> Values | None:
    """Curves over the threshold and over the confidence."""
    makers = (evaluation.precision_recall, evaluation.by_threshold, evaluation.calibration)
    drawn = [svg.drawn(chart) for make in makers for chart in make(record.detail)]
    return {"drawn": drawn} if drawn else None


def _finite(value: Any) -> float:
    return float(value) if is_number(value) and math.isfinite(value) else 0.0


@dataclass(frozen=True)
class Picture:
    """source: an address that holds the picture itself; width: in pixels; names: what lists the samples in it,
    `photos/7.jpg: cat, is dog`."""

    title: str
    split: str
    source: str
    width: int
    names: tuple[str, ...] = ()

    @property
    def is_wide(self) -> bool:
        return self.width > WIDE


def pictures(record: Record) -> Values | None:
    """Every picture that is no chart of the page, of the headline's split first; train's last."""
    order = {split: i for i, split in enumerate((record.split, *(s for s in SPLITS if s != record.split)))}
    seen = set(evaluation.CHARTS) if record.detail else set()
    wrong = [mistake for mistake in record.detail.get("mistakes") or [] if isinstance(mistake, dict)]
    found: list[Picture] = []
    for path in sorted(record.pictures, key=lambda path: order.get(_named(path)[0], len(SPLITS))):
        split, name = _named(path)
        if name in seen or len(found) == MOST_PICTURES:
            continue
        seen.add(name)  # the same of another split says little more
        source, width = _embedded(path)
        if source:
            listed = wrong if (split, name) == (record.detail_split, "mistakes") else ()
            names = tuple(f"{m.get('name')}: {m.get('answer')}, is {m.get('truth')}" for m in listed)
            found.append(Picture(name[:1].upper() + name[1:], split, source, width, names))
    # Large ones first, small ones side by side.
    return {"figures": sorted(found, key=lambda picture: not picture.is_wide)} if found else None


def _named(path: Path) -> tuple[str, str]:
    """test-feature-maps.png -> ("test", "feature maps")"""
    split, _, title = path.stem.partition("-")
    if split not in SPLITS or not title:
        return "", path.stem.replace("-", " ")
    return split, title.replace("-", " ")


def _embedded(path: Path) -> tuple[str, int]:
    """The picture as an address that holds it, and its width in pixels; an empty one if it cannot be read."""
    try:
        content, kind = read_file(path, MOST_FILE_BYTES), "png"
        with opened(content) as image:
            width = image.width
            if len(content) > LARGE_BYTES:
                smaller = io.BytesIO()
                on_paper = Image.new("RGB", image.size, PAPER)  # what is transparent would turn black
                on_paper.paste(image, mask=image.convert("RGBA").getchannel("A"))
                on_paper.save(smaller, "WEBP", quality=WEBP_QUALITY, method=2)
                content, kind = smaller.getvalue(), "webp"
            else:
                image.verify()
    except (OSError, DataError):
        return "", 0
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width
