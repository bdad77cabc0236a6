"""The regression metrics against scikit-learn, where sums of squares would fail, and for constant targets."""

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import Tensor

from mlcli.engine.contract import Batch
from mlcli.tasks.regression.task import RegressionMetrics


def measured(predictions: Tensor, truth: Tensor, batch_size: int = 7) -> RegressionMetrics:
    metrics = RegressionMetrics()
    for rows in torch.arange(len(truth)).split(batch_size):
        metrics.update(predictions[rows], Batch(None, truth[rows], rows))
    return metrics


def drawn(offset: float = 0.0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    truth = torch.randn(50, generator=draw) * scale + offset
    return truth + torch.randn(50, generator=draw) * scale / 2, truth


CASES = {
    "plain": drawn(),
    "far_from_zero": drawn(offset=1e5, scale=0.1),
    "large": drawn(scale=1e12),
    "tiny": drawn(scale=1e-12),
    "worse_than_the_mean": (drawn()[0] + 10, drawn()[1]),
    "constant_and_met": (torch.full((50,), 0.1), torch.full((50,), 0.1)),
    "constant_and_missed": (torch.full((50,), 0.2), torch.full((50,), 0.1)),
}


@pytest.mark.parametrize("case", CASES)
def test_against_scikit_learn(case):
    predictions, truth = CASES[case]
    scores = measured(predictions, truth).compute()
    predictions, truth = predictions.double(), truth.double()
    assert scores["mae"] == pytest.approx(mean_absolute_error(truth, predictions), rel=1e-9, abs=0)
    assert scores["rmse"] == pytest.approx(root_mean_squared_error(truth, predictions), rel=1e-9, abs=0)
    assert scores["r2"] == pytest.approx(r2_score(truth, predictions), rel=1e-9)


def test_batches_and_merging_change_nothing():
    predictions, truth = CASES["far_from_zero"]
    merged = measured(predictions[:20], truth[:20])
    merged.merge(measured(predictions[20:], truth[20:]))
    whole = measured(predictions, truth, batch_size=50).compute()
    assert merged.compute() == pytest.approx(whole, rel=1e-9)
    assert measured(predictions, truth, batch_size=1).compute() == pytest.approx(whole, rel=1e-9)


def test_every_metric_has_a_direction():
    metrics = measured(*CASES["plain"])
    assert metrics.compute().keys() == metrics.directions.keys()
    assert metrics.directions == {"mae": "min", "rmse": "min", "r2": "max"}


def test_update_reads_no_values():
    """A fake tensor has no values: whatever would wait for the device fails on it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.inference_mode():
        RegressionMetrics().update(torch.rand(4), Batch(None, torch.rand(4), torch.arange(4)))


# --- residuals -------------------------------------------------------------------------------------------------------


def test_a_small_split_is_kept_whole_and_in_order():
    predictions, truth = CASES["plain"]
    found = measured(predictions, truth).details()["residuals"]
    assert found["index"] == list(range(50))
    assert found["count"] == 50
    assert found["truth"] == pytest.approx(truth.tolist())
    assert found["answer"] == pytest.approx(predictions.tolist())
    misses = (predictions - truth).double().numpy()
    for share, value in found["quantiles"].items():
        assert value == pytest.approx(np.quantile(misses, float(share.split()[0]) / 100))
    assert list(found["quantiles"]) == ["0 %", "5 %", "25 %", "50 %", "75 %", "95 %", "100 %"]


def large(count: int = 9000) -> tuple[Tensor, Tensor]:
    truth = torch.arange(count).float()
    return truth + 0.5, truth


def test_of_a_large_split_an_even_sample_is_kept_whatever_the_batches():
    found = measured(*large(), batch_size=256).details()["residuals"]
    assert (len(found["index"]), found["count"]) == (2000, 9000)
    assert found["truth"] == [float(index) for index in found["index"]], "truth, answer and index belong together"
    assert found["answer"] == [index + 0.5 for index in found["index"]]
    in_each_tenth = np.histogram(found["index"], bins=10, range=(0, 9000))[0]
    assert in_each_tenth == pytest.approx([200] * 10, abs=20)
    assert measured(*large(), batch_size=4500).details()["residuals"] == found


def test_merging_keeps_the_same_sample():
    predictions, truth = large()
    metrics = [RegressionMetrics(), RegressionMetrics()]
    for rows in torch.arange(9000).split(1000):
        metrics[int(rows[0]) % 2000 // 1000].update(predictions[rows], Batch(None, truth[rows], rows))
    metrics[0].merge(metrics[1])
    assert metrics[0].details() == measured(predictions, truth, batch_size=256).details()


def test_nothing_seen_has_no_residuals():
    found = RegressionMetrics().details()["residuals"]
    assert found == {"count": 0, "index": [], "truth": [], "answer": [], "quantiles": {}}
