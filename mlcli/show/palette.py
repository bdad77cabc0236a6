"""One palette for every picture, chart and page: paper and ink, the right and the wrong, the lines of a chart.

Colours are "#rrggbb", which Pillow, matplotlib, SVG and CSS all take.
"""

PAPER, INK, FAINT = "#ffffff", "#202124", "#6e7278"
"""The ground of all pictures, what is read first, and what is read second."""
TRACK, GRID, RULE = "#e8eaed", "#eceef1", "#b8bec6"
"""Behind small pictures and bars; grid lines; axes, and lines and bars that are only there for comparison."""
BLUE, ORANGE = "#3b6fb6", "#d9731a"
"""What is right, or the first of two things; what is wrong, or the second."""
SERIES = (BLUE, ORANGE, "#2f855a", "#b83280", "#6b46c1", "#0e7c86", "#8a6d1d", "#5a3e2b")
"""Lines of one chart, in this order."""
