"""One palette for every picture, chart and page: paper and ink, the right and the wrong, the lines of a chart.

Colours are "#rrggbb", which Pillow, matplotlib, SVG and CSS all take.
"""

LIGHT = {
    "paper": "#fbfaf7", "card": "#ffffff", "ink": "#1b1d22", "soft": "#63676f", "faint": "#a2a5ab", "rule": "#e4e1da",
    "accent": "#2b5fd0", "wash": "#2b5fd01a", "warn": "#c26a12", "bad": "#c0392b", "good": "#2f855a",
}  # fmt: skip
"""The page in light. soft: text of less weight; faint: lines of less weight; rule: grids; wash: behind code."""
DARK = {
    "paper": "#131418", "card": "#1a1c21", "ink": "#e9eaee", "soft": "#9ba0a9", "faint": "#646973", "rule": "#2b2e35",
    "accent": "#86aaff", "wash": "#86aaff24", "warn": "#e8a24d", "bad": "#ff8073", "good": "#6fcf97",
}  # fmt: skip
"""The page where the reader's system is dark."""

PAPER, INK, FAINT = "#ffffff", LIGHT["ink"], LIGHT["soft"]
"""The ground of all pictures, what is read first, and what is read second."""
TRACK, GRID, RULE = "#e8eaed", "#eceef1", "#b8bec6"
"""Behind small pictures and bars; grid lines; axes, and lines and bars that are only there for comparison."""
BLUE, ORANGE = LIGHT["accent"], LIGHT["warn"]
"""Colours of right and wrong, or of the first and second of two things."""
SERIES = (BLUE, ORANGE, LIGHT["good"], "#b83280", "#6b46c1", "#0e7c86", "#8a6d1d", "#5a3e2b")
"""Lines of one chart, in this order: apart in hue and lightness for most colour-blind eyes."""
