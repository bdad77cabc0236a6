"""Figures of a detector's trade-offs: precision over recall, F1 over the threshold, and what each mistake costs."""

from typing import Any

from PIL import Image

from mlcli.show.boxes import COLOURS
from mlcli.show.drawing import headline, image_of, new_figure, plain_axes
from mlcli.show.palette import BLUE, FAINT, INK, ORANGE
from mlcli.text import plural

MOST_NAMED = len(COLOURS)
"""Classes that get a colour and a name; the others are faint."""
KINDS = {
    "localisation": "right class, loose box",
    "class": "right box, wrong class",
    "duplicate": "found twice",
    "background": "nothing there",
    "both": "wrong class, loose box",
    "missed": "not found",
}
"""What the kinds of mistakes mean (see breakdown.py)."""


def pr_figure(details: dict[str, Any]) -> Image.Image:
    """Precision over recall of each class at an IoU of 0.5, from `DetectionMetrics.details()`.

    Of more classes than there are colours, the weakest are named.
    """
    figure = new_figure(7.2, 4.6)
    axes = figure.subplots()
    rows = [row for row in details["classes"] if row["support"]]
    for row, colour in _coloured(rows):
        curve = details["pr_curves"][row["name"]]
        kept = [n for n, tp in enumerate(curve["tp"]) if tp + curve["fp"][n]]
        recall, precision = [curve["recall"][n] for n in kept], [curve["precision"][n] for n in kept]
        label = f"{row['name']}  {row['ap50']:.2f}" if colour else None
        axes.plot(recall, precision, color=colour or "#ccd1d8", linewidth=1.8 if colour else 0.8, label=label)
        if colour:
            axes.plot(row["recall"], row["precision"], "o", color=colour, markersize=5)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.01), xlabel="recall", ylabel="precision")
    plain_axes(axes)
    mean = sum(row["ap50"] for row in rows) / max(1, len(rows))
    headline(axes, "precision and recall", f"at an IoU of 0.5; dots where F1 is best; mean AP50 {mean:.3f}")
    _legend(axes, "AP50" if len(rows) <= MOST_NAMED else f"AP50, weakest {MOST_NAMED}")
    return image_of(figure)


def f1_figure(details: dict[str, Any]) -> Image.Image:
    """F1, precision and recall over the threshold, all classes together, and the F1 of each class."""
    figure = new_figure(7.2, 4.6)
    axes = figure.subplots()
    rows = [row for row in details["classes"] if row["support"]]
    for row in rows:
        curve = details["pr_curves"][row["name"]]
        axes.plot(curve["threshold"], curve["f1"], color="#d5d9df", linewidth=0.9)
    whole = details["f1_curve"]
    axes.plot(whole["threshold"], whole["precision"], color=BLUE, linewidth=1.4, linestyle="--", label="precision")
    axes.plot(whole["threshold"], whole["recall"], color=ORANGE, linewidth=1.4, linestyle="--", label="recall")
    axes.plot(whole["threshold"], whole["f1"], color=INK, linewidth=2.4, label="F1")
    best, f1 = details["best_threshold"], details["best_f1"]
    axes.axvline(best, color=FAINT, linewidth=0.9, linestyle=":")
    axes.plot(best, f1, "o", color=INK, markersize=6)
    axes.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="threshold: detections less certain are dropped")
    plain_axes(axes)
    headline(axes, "F1 by threshold", f"best {f1:.3f} at {best:.2f}; faint: F1 of each class")
    _legend(axes, "all objects")
    return image_of(figure)


def breakdown_figure(details: dict[str, Any]) -> Image.Image:
    """How much the mean AP at 0.5 would gain if one kind of mistake were mended."""
    figure = new_figure(7.2, 3.4)
    axes = figure.subplots()
    rows = details["breakdown"][::-1]
    gains = [row["delta_map50"] for row in rows]
    axes.barh([f"{KINDS[row['name']]}" for row in rows], gains, color=ORANGE, height=0.62)
    longest = max([*gains, 0.01])
    for place, row in enumerate(rows):
        text = f" {row['delta_map50']:.3f}   {plural(row['count'], 'time')}"
        axes.text(row["delta_map50"], place, text, va="center", fontsize=8.5, color=INK)
    axes.set(xlim=(0, 1.3 * longest))
    plain_axes(axes)
    axes.grid(axis="y", visible=False)
    headline(axes, "kinds of mistakes", "what mean AP50 would gain if that kind alone were mended")
    return image_of(figure)


def _coloured(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str | None]]:
    """Each class and its colour, in label order; of too many only the weakest have one, and they come last."""
    shades = ["#{:02x}{:02x}{:02x}".format(*_darker(colour)) for colour in COLOURS]
    if len(rows) <= MOST_NAMED:
        return list(zip(rows, shades, strict=False))
    ranked = sorted(rows, key=lambda row: row["ap50"])
    return [(row, None) for row in ranked[MOST_NAMED:]] + list(zip(ranked[:MOST_NAMED], shades, strict=True))


def _darker(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Lines on white want more ink than boxes on photographs."""
    red, green, blue = (round(0.82 * part) for part in colour)
    return red, green, blue


def _legend(axes, title: str) -> None:
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(
            title=title, title_fontsize=8.5, fontsize=8.5, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5)
        )
