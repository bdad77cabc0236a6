"""The kinds of mistakes against the paper's own code, tidecv 1.0.1, run once on made-up detections."""

import numpy as np
import pytest

from mlcli.tasks.detection.evaluation.metrics import DetectionMetrics
from mlcli.tasks.detection.evaluation.tide import KINDS, breakdown
from tests.tasks.detection.published import feed, made_up, records_of

# counts of Loc, Cls, Dupe, Bkg, Both and Miss; dAP in percent. tidecv reads precision at recalls of 0, 1/100, ... where
# COCO (and mlcli) has numpy's linspace; one of the 101 readings of a class falls otherwise for the first set.
TIDE = {
    0: ([77, 45, 41, 23, 29, 15], [16.517108, 11.701923, 1.891610, 3.761244, 4.032951, 3.476976], 0.1),
    1: ([70, 42, 44, 27, 24, 8], [16.092972, 11.242056, 2.784448, 4.366640, 3.299284, 2.111929], 1e-5),
}


@pytest.mark.parametrize("seed", TIDE)
def test_counts_and_costs_are_tidecvs(seed):
    coco, results = made_up(seed)
    metrics = DetectionMetrics(records_of(coco, (240, 320), "stretch"), tuple("abcde"))
    feed(metrics, results, {k: k for k in range(1, 6)})
    rows = metrics.details()["breakdown"]
    counts, costs, tolerance = TIDE[seed]
    assert [row["name"] for row in rows] == list(KINDS)
    assert [row["count"] for row in rows] == counts
    assert [100 * row["delta_map50"] for row in rows] == pytest.approx(costs, abs=tolerance)


def test_every_wrong_detection_is_of_one_kind():
    coco, results = made_up(2)
    metrics = DetectionMetrics(records_of(coco), tuple("abcde"))
    feed(metrics, results, {k: k for k in range(1, 6)})
    rows = breakdown(metrics.matches, 5)
    assert sum(row["count"] for row in rows if row["name"] != "missed") == int(metrics.matches.wrong.sum())
    assert metrics.matches.wrong.sum() + metrics.matches.correct.sum() == len(results)


def test_perfect_answers_have_no_mistakes():
    coco, _ = made_up(0)
    results = [{**a, "score": 0.5 + a["id"] / 1000} for a in coco["annotations"]]
    metrics = DetectionMetrics(records_of(coco), tuple("abcde"))
    feed(metrics, results, {k: k for k in range(1, 6)})
    assert metrics.compute()["map50"] == 1
    assert all(row["count"] == 0 and row["delta_map50"] == 0 for row in metrics.details()["breakdown"])
    assert np.trace(np.array(metrics.details()["confusion"])) == len(results)
