"""Figures about a classifier: who is taken for whom, and whether its probabilities can be believed.

Reliability diagram: Guo et al. 2017 (arXiv:1706.04599), figure 1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from mlcli.show.drawing import headline, image_of, new_figure, plain_axes
from mlcli.show.palette import BLUE, FAINT, INK, ORANGE
from mlcli.text import truncated

MOST_CLASSES = 100
"""Of a confusion matrix in one figure; of more classes, only those with the most mistakes are shown."""
_MOST_COUNTS = 25  # classes up to which counts can be read in the cells
_LONGEST_NAME = 22


def confusion_figure(confusion: np.ndarray, class_names: Sequence[str], title: str) -> Image.Image:
    """Counts [C, C] by truth (row) and answer (column): right ones in blue, wrong ones in orange."""
    right, total = int(confusion.trace()), int(confusion.sum())
    note = f"{right:,} of {total:,} right; colour by share of the row"
    chosen = np.arange(len(confusion))
    if len(confusion) > MOST_CLASSES:
        wrong = confusion.sum(0) + confusion.sum(1) - 2 * confusion.diagonal()
        chosen = np.sort(np.argsort(-wrong, kind="stable")[:MOST_CLASSES])
        note += f"; {MOST_CLASSES} of {len(confusion):,} classes, those with the most mistakes"
    shares = (confusion / np.maximum(confusion.sum(1, keepdims=True), 1))[np.ix_(chosen, chosen)]
    counts, names = (
        confusion[np.ix_(chosen, chosen)],
        [truncated(class_names[c], _LONGEST_NAME) for c in chosen.tolist()],
    )
    side = float(np.interp(len(chosen), [2, 10, 25, 100], [3, 5, 9, 12.5]))  # inches
    longest = max(map(len, names))
    rim = 0.55 + 0.085 * longest
    figure = new_figure(side + rim + 0.3, side + rim + 0.7)
    axes = figure.subplots()
    axes.imshow(_cell_colours(shares), aspect="equal", interpolation="nearest")
    headline(axes, title, note)
    size = float(np.interp(len(chosen), [10, 25, 100], [9, 8, 5.5]))
    places = range(len(chosen))
    axes.set_xticks(places, names, rotation=90 if 0.09 * longest > side / len(chosen) else 0, fontsize=size, color=INK)
    axes.set_yticks(places, names, fontsize=size, color=INK)
    axes.set_xlabel("answer", fontsize=9, color=FAINT)
    axes.set_ylabel("truth", fontsize=9, color=FAINT)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    edges = np.arange(len(chosen) + 1) - 0.5
    axes.hlines(edges, -0.5, len(chosen) - 0.5, color="white", linewidth=min(1.5, 20 / len(chosen)))
    axes.vlines(edges, -0.5, len(chosen) - 0.5, color="white", linewidth=min(1.5, 20 / len(chosen)))
    if len(chosen) <= _MOST_COUNTS:
        _write_counts(axes, counts, shares, size)
    return image_of(figure)


def _write_counts(axes, counts: np.ndarray, shares: np.ndarray, size: float) -> None:
    smaller = size - 1 if counts.max() < 1000 else size - 2
    for (row, column), count in np.ndenumerate(counts):
        if count:
            dark = shares[row, column] > (0.55 if row == column else 0.35)
            axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=smaller,
                      color="white" if dark else INK)  # fmt: skip


def _cell_colours(shares: np.ndarray) -> np.ndarray:
    """[C, C, 3]: from nearly white to blue on the diagonal, to orange beside it; rare mistakes by their root."""
    from matplotlib.colors import to_rgb

    empty = np.array([0.965, 0.969, 0.973])
    diagonal = np.eye(len(shares), dtype=bool)
    strength = np.where(diagonal, shares, np.sqrt(shares))[..., None]
    full = np.where(diagonal[..., None], np.array(to_rgb(BLUE)), np.array(to_rgb(ORANGE)))
    return empty + (full - empty) * strength


def calibration_figure(bins: Sequence[dict[str, Any]], ece: float, title: str) -> Image.Image:
    """Accuracy over confidence, from bins of samples, confidence and accuracy; below, where the samples lie."""
    figure = new_figure(4.6, 4.9)
    upper, lower = figure.subplots(2, 1, height_ratios=(3.2, 1), sharex=True)
    confidence = [found["confidence"] for found in bins]
    accuracy = [found["accuracy"] for found in bins]
    samples = np.array([found["samples"] for found in bins], dtype=float)
    upper.plot([0, 1], [0, 1], color="#b8bec6", linewidth=1, linestyle=(0, (4, 3)))
    upper.vlines(confidence, confidence, accuracy, color=ORANGE, linewidth=1.5, alpha=0.7)
    upper.plot(confidence, accuracy, color=BLUE, linewidth=1, alpha=0.4)
    upper.scatter(
        confidence, accuracy, s=20 + 180 * samples / max(samples.sum(), 1), color=BLUE, zorder=3, clip_on=False
    )
    upper.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="share of answers that are right")
    headline(upper, title, f"below the dashed line: too sure of itself; calibration error {ece:.3f}")
    lower.bar(confidence, samples / max(samples.sum(), 1), width=0.045, color="#b8bec6")
    lower.set(xlabel="probability of the answer", ylabel="share of samples", ylim=(0, None))
    for axes in (upper, lower):
        plain_axes(axes)
    figure.align_ylabels()
    return image_of(figure)
