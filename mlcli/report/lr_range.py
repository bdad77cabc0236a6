"""What `mlcli lr-find` shows: the curve of loss over learning rate, as text and as a picture, and what it says."""

import io
import math
from itertools import zip_longest

from mlcli.engine.lr_range import Suggestion, Sweep
from mlcli.report.tables import ABSENT, number, table

BLUE, ORANGE, GREY, DARK = "#3b6fb6", "#d9731a", "#b8bec6", "#30343b"
BLOCKS = " ▁▂▃▄▅▆▇█"
WIDTH, HEIGHT = 80, 7
"""Of the curve, in characters."""
HEADROOM = 1.15
"""Share of the first loss up to which the curve is shown: what explodes would flatten all else."""


def curve(seen: Sweep, suggestion: Suggestion) -> str:
    """Loss over learning rate as blocks of text, its scale on the left, decades below, the suggestion marked."""
    smooth = seen.smooth
    low, high = _limits(smooth)
    columns = [smooth[round(x * (len(smooth) - 1) / (WIDTH - 1))] for x in range(WIDTH)]
    heights = [round((min(value, high) - low) / (high - low) * 8 * HEIGHT) for value in columns]
    lines = []
    for row in reversed(range(HEIGHT)):
        cells = "".join(BLOCKS[max(0, min(8, height - 8 * row))] for height in heights)
        label = number(high) if row == HEIGHT - 1 else number(low) if row == 0 else ""
        lines.append(f"{label:>9} |{cells}")
    lines.append(f"{'':>9} +{_marks(seen, suggestion)}")
    lines.append(f"{'lr':>9}  {_decades(seen)}")
    return "\n".join(line.rstrip() for line in lines)


def _limits(smooth: list[float]) -> tuple[float, float]:
    low, high = min(smooth), min(max(smooth), HEADROOM * smooth[0])
    return (low, high) if high > low else (low, low + 1)


def _place(seen: Sweep, lr: float) -> int:
    """The column of a learning rate; beyond the edges for those outside the curve."""
    first, last = math.log10(seen.lrs[0]), math.log10(seen.lrs[-1])
    return round((math.log10(lr) - first) / max(last - first, 1e-9) * (WIDTH - 1))


def _marks(seen: Sweep, suggestion: Suggestion) -> str:
    cells = ["-"] * WIDTH
    if suggestion.best is not None and 0 <= _place(seen, suggestion.best) < WIDTH:
        cells[_place(seen, suggestion.best)] = "^"
    return "".join(cells)


def _decades(seen: Sweep) -> str:
    """1e-07, 1e-06, ... each beginning below its place, where there is room."""
    text = ""
    for exponent in range(math.ceil(math.log10(seen.lrs[0]) - 1e-9), math.floor(math.log10(seen.lrs[-1])) + 1):
        place = _place(seen, 10.0**exponent)
        if place >= len(text):
            text = text.ljust(place) + f"{10.0**exponent:g} "
    return text


def rules_table(seen: Sweep, suggestion: Suggestion) -> str:
    """Both rules with what they say, the one to take marked."""
    rules = [("steepest descent", suggestion.steepest), ("a tenth of the lowest", suggestion.tenth)]
    rows = [
        [rule, ABSENT if lr is None else f"{lr:.2g}", number(_loss_at(seen, lr)), "<-" if lr == suggestion.best else ""]
        for rule, lr in rules
    ]
    return table(["rule", "lr", "loss there", ""], rows)


def _loss_at(seen: Sweep, lr: float | None) -> float | None:
    """The smoothed loss at the learning rate tried that is nearest."""
    if lr is None:
        return None
    nearest = min(range(len(seen.lrs)), key=lambda step: abs(math.log(seen.lrs[step] / lr)))
    return seen.smooth[nearest]


def ending(seen: Sweep) -> str:
    """How far the test went, in words."""
    last = f"{seen.lrs[-1]:.2g}"
    match seen.ended:
        case "exploded":
            return f"the loss exploded behind {last}, after {len(seen.lrs)} of {seen.planned} steps"
        case "time":
            return f"stopped at {last} after {len(seen.lrs)} of {seen.planned} steps, for time"
    return f"all {seen.planned} steps up to {last}; the loss did not explode"


def picture(seen: Sweep, suggestion: Suggestion, title: str) -> bytes:
    """A PNG: the losses as they were, the smoothed curve, and both rules."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    smooth = seen.smooth
    low, high = _limits(smooth)
    least = min(low, *seen.losses)
    axes.plot(seen.lrs, seen.losses, ".", color=GREY, markersize=5, label="each step")
    axes.plot(seen.lrs, smooth, color=BLUE, linewidth=2, label="smoothed")
    styles = zip_longest(("steepest descent", "a tenth of the lowest"), (suggestion.steepest, suggestion.tenth))
    for rule, lr in styles:
        if lr is not None:
            taken = lr == suggestion.best
            label = f"{rule}: {lr:.2g}" + (", suggested" if taken else "")
            axes.axvline(lr, color=ORANGE if taken else DARK, linestyle="-" if taken else ":", label=label)
    if suggestion.lowest is not None:
        axes.plot([suggestion.lowest], [low], "v", color=BLUE, markersize=7, label=f"lowest: {suggestion.lowest:.2g}")
    axes.set_xscale("log")
    margin = 0.06 * (high - least)
    axes.set_ylim(least - margin, high + margin)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.grid(True, color=GREY, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    axes.set_title(f"{title}\n{ending(seen)}", fontsize=11, color=DARK)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=120)
    return target.getvalue()
