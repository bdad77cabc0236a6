"""Tables as aligned text, and numbers and times as people read them."""

from collections.abc import Sequence

ABSENT = "-"
SHARES = ("accuracy", "top5_accuracy", "macro_precision", "macro_recall", "macro_f1")
"""Metrics that are, or behave like, a share of samples that went right."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Columns two spaces apart; the first `left` of them flush left, the others, being numbers, flush right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def number(value: float | None) -> str:
    """Four decimals below 10, four digits above: 0.9722, 53.81, 1.234e+05; `-` for None."""
    if value is None:
        return ABSENT
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def score_text(metric: str, value: float | None) -> str:
    """A score as a sentence says it: 97.8 % for shares of samples, otherwise as `number`."""
    if value is None:
        return ABSENT
    return f"{100 * value:.1f} %" if metric in SHARES else number(value)


def duration(seconds: float | None) -> str:
    """4.2s, 1m 05s or 2h 03m; `-` for None."""
    if seconds is None:
        return ABSENT
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"
