"""Figures about a regression: what was answered over what was true, and how the misses lie."""

from typing import Any

import numpy as np
from PIL import Image

from mlcli.show.drawing import headline, image_of, new_figure, plain_axes
from mlcli.show.palette import BLUE, ORANGE


def answers_figure(residuals: dict[str, Any], unit: str, title: str, note: str) -> Image.Image:
    """Predicted over true values with the diagonal on which they are equal, from `details()["residuals"]`."""
    truth, answer = np.array(residuals["truth"]), np.array(residuals["answer"])
    figure = new_figure(5.2, 5.4)
    axes = figure.subplots()
    low, high = min(truth.min(), answer.min()), max(truth.max(), answer.max())
    rim = 0.04 * (high - low) or 1.0
    axes.plot([low - rim, high + rim], [low - rim, high + rim], color=ORANGE, linewidth=1.2, zorder=3)
    axes.plot(truth, answer, "o", color=BLUE, alpha=_alpha(len(truth)), markersize=5, markeredgewidth=0)
    axes.set(xlim=(low - rim, high + rim), ylim=(low - rim, high + rim), aspect="equal")
    axes.set(xlabel=f"true {unit}", ylabel=f"predicted {unit}")
    headline(axes, title, note)
    plain_axes(axes)
    return image_of(figure)


def residuals_figure(residuals: dict[str, Any], unit: str, title: str) -> Image.Image:
    """Predicted minus true over predicted values, and how often which miss occurs."""
    answer = np.array(residuals["answer"])
    miss = answer - np.array(residuals["truth"])
    figure = new_figure(7.2, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    left.plot(answer, miss, "o", color=BLUE, alpha=_alpha(len(miss)), markersize=5, markeredgewidth=0)
    right.hist(miss, bins=int(np.clip(len(miss) ** 0.5, 5, 40)), orientation="horizontal", color=BLUE, alpha=0.8)
    low, middle, high = (residuals["quantiles"][key] for key in ("5 %", "50 %", "95 %"))
    headline(left, title, f"nine of ten misses lie between {low:.3g} and {high:.3g}; the middle one is {middle:.3g}")
    left.set(xlabel=f"predicted {unit}", ylabel="predicted - true")
    right.set_xlabel("samples")
    for axes in (left, right):
        plain_axes(axes)
        axes.axhline(0, color=ORANGE, linewidth=1.2)
    left.axhspan(low, high, color=BLUE, alpha=0.07, linewidth=0)
    return image_of(figure)


def _alpha(points: int) -> float:
    """Fainter where there are many, so that crowds show."""
    return float(np.interp(points, [50, 500, 2000], [0.75, 0.45, 0.25]))
