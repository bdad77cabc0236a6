"""The picture of several runs."""

import numpy as np

from mlcli.report.comparison import comparison
from mlcli.report.record import Record
from mlcli.show.charts import LineChart
from mlcli.show.figure import image
from mlcli.show.palette import SERIES
from tests.report import crafted

DRAWS = True  # see tests/conftest.py


def run(root, name, metric="accuracy", level=0.9, **more):
    scores = {"val": {metric: level}}
    direction = "max" if metric == "accuracy" else "min"
    values = [level - 0.5 * 0.7**i for i in range(20)]
    return Record.read(crafted.craft(root, name, status=crafted.status(metric, direction, scores),
                                     metrics=crafted.metrics(metric, values), **more))  # fmt: skip


def drawn_colours(charts: list[LineChart]) -> list[int]:
    """Which of SERIES have pixels of just their own."""
    pixels = np.asarray(image(*charts)).reshape(-1, 3)
    found = {tuple(p) for p in np.unique(pixels, axis=0).tolist()}
    return [i for i, c in enumerate(SERIES) if tuple(int(c[k : k + 2], 16) for k in (1, 3, 5)) in found]


def test_a_colour_for_each_run_and_two_panels(tmp_path):
    records = [run(tmp_path, name, level=0.5 + 0.05 * i) for i, name in enumerate("abc")]
    charts = comparison(records)
    assert drawn_colours(charts) == [0, 1, 2]
    picture = image(*charts)
    assert picture.width > 2.5 * picture.height


def test_at_most_eight(tmp_path):
    records = [run(tmp_path, f"run {i} $x_$", level=0.5 + 0.04 * i) for i in range(10)]
    assert drawn_colours(comparison(records)) == list(range(8))


def test_another_task_is_in_the_loss_panel_only(tmp_path):
    alone = comparison([run(tmp_path, "a", "rmse")])
    both = comparison([run(tmp_path, "b"), run(tmp_path, "c", "rmse")])
    assert drawn_colours(alone) == [0]
    assert drawn_colours(both) == [0, 1]


def test_runs_that_logged_nothing(tmp_path):
    assert comparison([Record.read(crafted.craft(tmp_path))]) == []
    begun = Record.read(crafted.craft(tmp_path, "one", metrics=crafted.metrics("accuracy", [0.5])))
    assert image(*comparison([begun])).width > 500
