"""The answer of `mlcli lr-find`: loss over learning rate as text and as a picture, both rules, the suggestion."""

import math

from mlcli.engine.lr_range import Suggestion, Sweep
from mlcli.show.charts import Line, LineChart, Rule, axis, log_axis
from mlcli.text import ABSENT, number, paragraphs, screen_width, table

BLOCKS = " ▁▂▃▄▅▆▇█"
MOST_WIDTH, HEIGHT = 80, 7
"""Of the curve, in characters, where the screen has as many."""
LABEL = 11
"""Characters left of it."""
HEADROOM = 1.15
"""Share of the first loss up to which the curve is shown: what explodes would flatten all else."""


Lines = list[tuple[str, str]]
"""Subject and text of each."""


def page(seen: Sweep, suggestion: Suggestion, first: Lines, last: Lines) -> str:
    """The whole answer for a terminal: `first`, the curve, what both rules say, the suggestion, `last`."""
    parts, answer = [paragraphs(first), curve(seen, suggestion)], ("VERDICT", suggestion.why)
    if suggestion.best is not None:
        parts.append(rules_table(seen, suggestion))
        answer = ("SUGGESTED", f"optimizer.lr={suggestion.best:.2g}   {suggestion.why}")
    return "\n\n".join([*parts, paragraphs([answer, *last])])


def curve(seen: Sweep, suggestion: Suggestion) -> str:
    """Loss over learning rate as blocks of text, its scale on the left, decades below, the suggestion marked."""
    smooth = seen.smooth
    low, high = _limits(smooth)
    width = min(MOST_WIDTH, screen_width() - LABEL)
    columns = [smooth[round(x * (len(smooth) - 1) / (width - 1))] for x in range(width)]
    heights = [round((min(value, high) - low) / (high - low) * 8 * HEIGHT) for value in columns]
    lines = []
    for row in reversed(range(HEIGHT)):
        cells = "".join(BLOCKS[max(0, min(8, height - 8 * row))] for height in heights)
        label = number(high) if row == HEIGHT - 1 else number(low) if row == 0 else ""
        lines.append(f"{label:>9} |{cells}")

    first, last = math.log10(seen.lrs[0]), math.log10(seen.lrs[-1])

    def column(lr: float) -> int:
        """Beyond the edges for what is outside the curve."""
        return round((math.log10(lr) - first) / max(last - first, 1e-9) * (width - 1))

    axis, decades = ["-"] * width, ""
    if suggestion.best is not None and 0 <= column(suggestion.best) < width:
        axis[column(suggestion.best)] = "^"
    for exponent in range(math.ceil(first - 1e-9), math.floor(last) + 1):  # each below its place, where there is room
        if column(10.0**exponent) >= len(decades):
            decades = decades.ljust(column(10.0**exponent)) + f"{10.0**exponent:g} "
    lines += [f"{'':>9} +{''.join(axis)}", f"{'lr':>9}  {decades}"]
    return "\n".join(line.rstrip() for line in lines)


def _limits(smooth: list[float]) -> tuple[float, float]:
    low, high = min(smooth), min(max(smooth), HEADROOM * smooth[0])
    return (low, high) if high > low else (low, low + 1)


def rules_of(suggestion: Suggestion) -> list[tuple[str, float | None]]:
    return [("steepest descent", suggestion.steepest), ("a tenth of the lowest", suggestion.tenth)]


def rules_table(seen: Sweep, suggestion: Suggestion) -> str:
    """Both rules with what they say and the loss at the learning rate tried that is nearest; the one to take marked."""
    rows = []
    for rule, lr in rules_of(suggestion):
        if lr is None:
            rows.append([rule, ABSENT, ABSENT, ""])
            continue
        nearest = min(range(len(seen.lrs)), key=lambda step: abs(math.log(seen.lrs[step] / lr)))
        rows.append([rule, f"{lr:.2g}", number(seen.smooth[nearest]), "<-" if lr == suggestion.best else ""])
    return table(["rule", "lr", "loss there", ""], rows)


def ending(seen: Sweep) -> str:
    """Say in words how far the test went."""
    last = f"{seen.lrs[-1]:.2g}"
    match seen.ended:
        case "exploded":
            return f"the loss exploded behind {last}, after {len(seen.lrs)} of {seen.planned} steps"
        case "time":
            return f"stopped at {last} after {len(seen.lrs)} of {seen.planned} steps, for time"
    return f"all {seen.planned} steps up to {last}; the loss did not explode"


def chart(seen: Sweep, suggestion: Suggestion, title: str) -> LineChart:
    """The losses as they were, the smoothed curve, and both rules."""
    low, high = _limits(seen.smooth)
    least = min(low, *seen.losses)
    margin = 0.06 * (high - least)
    rates = seen.lrs
    lines = [
        Line("each step", list(zip(rates, seen.losses, strict=True)), "quiet", dots=True),
        Line("smoothed", list(zip(rates, seen.smooth, strict=True))),
    ]
    if suggestion.lowest is not None:
        lines.append(Line(f"lowest: {suggestion.lowest:.2g}", [(suggestion.lowest, low)], "warn", dots=True))
    rules = [
        Rule(lr, f"{rule}: {lr:.2g}" + (", suggested" if lr == suggestion.best else ""))
        for rule, lr in rules_of(suggestion)
        if lr is not None
    ]
    x = log_axis(rates, "learning rate") or axis(rates, "learning rate", tight=True)
    y = axis([least - margin, high + margin], "loss", tight=True)
    return LineChart(title, lines, x, y, ending(seen), rules, named=False)
