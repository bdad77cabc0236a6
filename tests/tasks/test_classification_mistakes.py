"""The surest mistakes and the most confused pairs against plain Python."""

import pytest
import torch
from torch import Tensor

from mlcli.engine.contract import Batch
from mlcli.tasks.classification.metrics import MOST_MISTAKES, ClassificationMetrics


def measured(p: Tensor, truth: Tensor, batch_size: int = 7, first: int = 0) -> ClassificationMetrics:
    names = [f"c{c}" for c in range(p.shape[1])]
    metrics = ClassificationMetrics(p.shape[1], names, name_of=lambda index: f"file-{index}.png")
    for rows in torch.arange(len(truth)).split(batch_size):
        metrics.update(p[rows], Batch(None, truth[rows], rows + first))
    return metrics


def drawn(decimals: int = 8) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    p = (torch.randn(90, 5, generator=draw)).softmax(dim=1).round(decimals=decimals)
    return p, torch.randint(5, (90,), generator=draw)


def naive(p: Tensor, truth: Tensor) -> list[tuple[int, int, int, float]]:
    wrong = [(i, int(t), int(row.argmax()), float(row.max())) for i, (row, t) in enumerate(zip(p, truth, strict=True))]
    return sorted((w for w in wrong if w[1] != w[2]), key=lambda w: -w[3])  # sorted keeps the first of equals first


@pytest.mark.parametrize("decimals", [8, 1], ids=["apart", "with_ties"])
@pytest.mark.parametrize("batch_size", [1, 7, 90])
def test_the_surest_mistakes_come_first(decimals, batch_size):
    p, truth = drawn(decimals)
    found = measured(p, truth, batch_size).mistakes.read()
    assert len(found) == MOST_MISTAKES
    assert [tuple(mistake) for mistake in found] == naive(p, truth)[:MOST_MISTAKES]


def test_merging_keeps_the_surest_of_both():
    p, truth = drawn()
    merged = measured(p[:40], truth[:40])
    merged.merge(measured(p[40:], truth[40:], first=40))
    assert merged.mistakes.read() == measured(p, truth).mistakes.read()


def test_right_answers_are_no_mistakes():
    p, truth = torch.eye(3)[[0, 1, 2, 1]], torch.tensor([0, 1, 2, 2])
    assert [tuple(mistake) for mistake in measured(p, truth).mistakes.read()] == [(3, 2, 1, 1.0)]
    assert measured(p[:3], truth[:3]).mistakes.read() == []


def test_details_are_plain_data_that_agree_with_each_other():
    import json

    p, truth = drawn()
    details = json.loads(json.dumps(measured(p, truth).details()))
    assert [row["name"] for row in details["classes"]] == ["c0", "c1", "c2", "c3", "c4"]
    assert sum(map(sum, details["confusion"])) == 90
    position, label, answer, probability = naive(p, truth)[0]
    assert details["mistakes"][0] == {
        "index": position,
        "name": f"file-{position}.png",
        "truth": f"c{label}",
        "answer": f"c{answer}",
        "probability": pytest.approx(probability),
    }
    assert details["pr_curves"]["c2"]["tp"][0] == details["classes"][2]["support"]
    bins = details["calibration"]
    assert sum(found["samples"] for found in bins) == 90
    assert sum(found["samples"] * found["accuracy"] for found in bins) == pytest.approx(90 - len(naive(p, truth)))
    error = sum(found["samples"] * abs(found["accuracy"] - found["confidence"]) for found in bins) / 90
    assert error == pytest.approx(measured(p, truth).compute()["ece"])


def test_without_names_mistakes_have_positions_only():
    p, truth = drawn()
    metrics = ClassificationMetrics(5, "abcde")
    metrics.update(p, Batch(None, truth, torch.arange(90)))
    assert "name" not in metrics.details()["mistakes"][0]
