"""Charts as data, and what each pen makes of them."""

import html
import json
import re
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageColor

from mlcli.report.page import svg
from mlcli.show import evaluation, figure
from mlcli.show.charts import Bar, BarChart, Line, LineChart, Rule, apart, axis, log_axis, nice, thinned
from mlcli.show.palette import BLUE, ORANGE

DRAWS = True  # see tests/conftest.py

EVIL = "<script>alert('x')</script>\"'&amp;"


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([0.13, 0.97], (0.0, 0.25, 0.5, 0.75, 1.0)), ([3, 3], (1.0, 2.0, 3.0, 4.0, 5.0)), ([-1e-5, 2e-5], None)],
    ids=["shares", "one value", "tiny"],
)
def test_ticks_are_round_and_hold_the_values(values, ticks):
    found = axis(values)
    assert found.low <= min(values) <= max(values) <= found.high
    assert found.high > found.low
    assert ticks is None or found.ticks == ticks
    assert all(-1e-9 <= found.share(value) <= 1 + 1e-9 for value in values)


def test_a_wide_span_gets_powers_of_ten():
    assert log_axis([2.0, 0.0016]).ticks == (0.001, 0.01, 0.1, 1.0, 10.0)
    assert log_axis([2.0, 0.5]) is None
    assert log_axis([2.0, 0.0]) is None
    assert log_axis([1, 0.01]).share(0.1) == pytest.approx(0.5)
    assert nice(0.3) == 0.5


def test_labels_keep_apart_and_inside():
    places = apart([0.5, 0.49, 0.02, 0.01], 0.1)
    assert all(a - b >= 0.1 - 1e-9 for a, b in pairwise(places))
    assert min(places) >= -1e-9
    assert apart([0.9, 0.1], 0.1) == [0.9, 0.1]
    assert apart([1.0, 0.0, 0.0], 0.1) == [1.0, 0.1, 0.0]


def test_long_lines_are_thinned_to_means():
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    short = thinned(points)
    assert len(short) <= 400
    assert {y for _, y in short[:-1]} <= {0.48, 0.5, 0.52}
    assert short[-1][0] == 9999
    chart = svg.drawn(LineChart("many", [Line("a", points)], axis([0, 10_000], "epoch"), axis([0, 1])))
    data = html.unescape(re.search(r'data-lines="(.*?)"', chart).group(1))
    assert len(json.loads(data)[0]["x"]) == len(short)


def test_sparklines_of_nothing_and_of_zeros():
    assert "svg" not in svg.sparkline([], "x")
    assert "svg" not in svg.sparkline([0.0, 0.0], "x", log=True)
    assert "nan" not in svg.sparkline([0.0, 1e-3], "x", log=True)


def test_ticks_of_counts_are_whole():
    assert axis([1.0, 3.0], count=6, tight=True, whole=True).ticks == (1.0, 2.0, 3.0)
    assert axis([1.0, 3.0], whole=True).written() == ["1", "2", "3"]


def everything(name: str) -> list:
    """A chart of each kind, full of this name."""
    unit = axis([0.0, 1.0], name)
    lines = [Line(name, [(0.0, 0.5), (1.0, 0.7)]), Line(name, [(0.5, 0.5)], dots=True, group=1)]
    details = {"confusion": [[5, 1], [0, 2]], "confusion_names": [name, "dog"]}
    return [
        LineChart(name, lines, unit, unit, name, [Rule(0.4, name), Rule(0.3, name, "y")]),
        BarChart(name, [Bar(name, 0.5, name, name, "main"), Bar("b", -1.0, "-1")], 1.0, name, name),
        *evaluation.confusion(details),
    ]


def test_the_page_s_pen_escapes_every_text():
    for chart in everything(EVIL):
        drawn = svg.drawn(chart)
        assert "<script" not in drawn
        assert "alert(&#39;x&#39;)" in drawn
        attributes = re.findall(r'[\w-]+="([^"]*)"', drawn)
        assert all("<" not in value for value in attributes)


@pytest.mark.parametrize("name", ["cat", EVIL, "$x_$ " * 8], ids=["plain", "markup", "mathematics"])
def test_the_image_pen_draws_every_chart_with_a_rim(name):
    for chart in everything(name):
        pixels = np.asarray(figure.image(chart, prefix="val: "))
        assert pixels.min() < 100
        assert (pixels[:, -3:] == 255).all()
        assert (pixels[:3] == 255).all()


def test_charts_side_by_side_share_a_picture():
    one, two, _ = everything("cat")
    assert figure.image(one, two).width > 1.7 * figure.image(one).width
    assert figure.image(one, title="above").height > figure.image(one).height


def test_an_evaluation_without_details_has_no_charts():
    assert [name for name, make in evaluation.CHARTS.items() if make({})] == []


def near(picture: Image.Image, colour: str) -> np.ndarray:
    return np.abs(np.asarray(picture).astype(int) - ImageColor.getrgb(colour)).sum(axis=2) < 12


def matrix(counts: np.ndarray, names: list[str]) -> Image.Image:
    return figure.image(*evaluation.confusion({"confusion": counts, "confusion_names": names}), prefix="val: ")


def test_right_answers_are_blue_and_mistakes_are_orange():
    right = matrix(np.diag([5, 7, 9]), ["ant", "bee", "cow"])
    assert near(right, BLUE).sum() > 10_000
    assert near(right, ORANGE).sum() == 0
    wrong = matrix(np.array([[0, 4], [3, 0]]), ["ant", "bee"])
    assert near(wrong, BLUE).sum() == 0
    assert near(wrong, ORANGE).sum() > 10_000


@pytest.mark.parametrize("classes", [2, 10, 26, 100, figure.LARGEST + 20])
def test_any_number_of_classes_fits_on_a_page(classes):
    confusion = np.eye(classes, dtype=int) * 9
    page = matrix(confusion, [f"quite a long name of class {c}" for c in range(classes)])
    assert 300 < page.width < 1800
    assert 300 < page.height < 1800
    diagonal = near(page, BLUE)
    across, down = diagonal.any(axis=0).sum(), diagonal.any(axis=1).sum()
    assert across == pytest.approx(down, rel=0.03), "the cells are squares"
    assert (np.asarray(page)[:, -3:] == 255).all(), "nothing runs off the page"


def test_of_very_many_classes_those_with_mistakes_are_shown():
    confusion = np.eye(300, dtype=int) * 9
    confusion[250, 260] = 90
    page = matrix(confusion, [str(c) for c in range(300)])
    strong = near(page, "rgb({}, {}, {})".format(*(round(246 + (c - 246) * 0.95) for c in ImageColor.getrgb(ORANGE))))
    assert strong.any(), "the root of 90 / 99"


def test_classes_without_samples_stay_empty():
    confusion = np.zeros((3, 3), dtype=int)
    page = matrix(confusion, ["a", "b", "c"])
    assert not near(page, BLUE).any()
    assert not near(page, ORANGE).any()


def test_calibration_is_drawn_of_any_bins():
    charts = evaluation.calibration({"calibration": [{"samples": 30, "confidence": 0.5, "accuracy": 0.4}]})
    assert near(figure.image(*charts), BLUE).sum() > 50
    assert "mean gap 0.100" in charts[0].note
    assert evaluation.calibration({"calibration": []}) == ()


def test_a_figure_becomes_a_picture_without_a_window():
    import matplotlib.pyplot

    chart = figure.new_figure(3, 2)
    chart.subplots().plot([0, 1])
    picture = figure.image_of(chart)
    assert picture.size == (330, 220)
    assert matplotlib.pyplot.get_fignums() == []
