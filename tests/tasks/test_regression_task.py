"""The regression task: learning in standard deviations, answering in the target's own unit."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch.nn import functional

from mlcli.engine.contract import Batch, DrawsBatches
from mlcli.engine.evaluate import evaluate_split
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.terms import total
from mlcli.tasks.regression.build import build_predictor, build_task
from mlcli.tasks.regression.config import Regression
from mlcli.tasks.regression.task import RegressionTask

DRAWS = True  # see tests/conftest.py


def config_of(**sections) -> Regression:
    plain = {
        "task": "regression",
        "data": {"name": "diabetes"},
        "model": {"name": "linear"},
        "train": {"batch_size": 32, "device": "cpu", "threads": 1},
    }
    return TypeAdapter(Regression).validate_python(plain | sections)


def whole(task: RegressionTask, split: str) -> Batch:
    samples = task.source.splits[split]
    rows = torch.arange(len(samples))
    return Batch(samples.read(rows.numpy()), samples.targets, rows)


def csv_config(path, scale: float) -> Regression:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(80, 2))
    y = (x @ [1.0, -2.0] + 5 + draw.normal(size=80) / 10) * scale
    lines = [f"{a:.9g},{b:.9g},{t:.9g}" for (a, b), t in zip(x, y, strict=True)]
    path.write_text("\n".join(["a,b,y", *lines]))
    return config_of(data={"name": "csv", "file": path, "target": "y"})


def test_the_unit_of_the_target_changes_nothing_but_the_unit(tmp_path):
    grams = build_task(csv_config(tmp_path / "grams.csv", 1000.0))
    kilos = build_task(csv_config(tmp_path / "kilos.csv", 1.0))
    terms_g, answers_g = grams.evaluate(grams.model, whole(grams, "train"))
    terms_k, answers_k = kilos.evaluate(kilos.model, whole(kilos, "train"))
    torch.testing.assert_close(terms_g["mse"].mean, terms_k["mse"].mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(answers_g, answers_k * 1000, rtol=1e-3, atol=1e-1)


def test_a_target_far_from_zero_is_learned_and_answered_whole(tmp_path):
    """Moved by 1.7e9, where float32 knows every 128th number only, scores are the same and answers are moved."""
    rows = [(n % 7, n % 5) for n in range(80)]
    tasks = []
    for name, by in (("near", 0), ("far", 1_700_000_000)):
        lines = [f"{a},{b},{by + 2 * a - b}" for a, b in rows]
        (tmp_path / f"{name}.csv").write_text("\n".join(["a,b,y", *lines]))
        tasks.append(build_task(config_of(data={"name": "csv", "file": tmp_path / f"{name}.csv", "target": "y"})))
    metrics = [task.metrics("test") for task in tasks]
    for task, measured in zip(tasks, metrics, strict=True):
        batch = whole(task, "test")
        measured.update(task.predict(task.model, batch.inputs), batch)
    assert metrics[1].compute() == pytest.approx(metrics[0].compute(), rel=1e-4)
    one, other = (measured.details()["residuals"] for measured in metrics)
    assert np.array(other["truth"]) - 1_700_000_000 == pytest.approx(one["truth"])
    inputs = whole(tasks[0], "test").inputs
    answers = [task.records(task.predict(task.model, inputs)) for task in tasks]
    assert [record["y"] - 1_700_000_000 for record in answers[1]] == pytest.approx(
        [record["y"] for record in answers[0]], abs=1e-4
    )


@pytest.mark.parametrize(
    ("loss", "independent"),
    [
        ({"name": "mse"}, functional.mse_loss),
        ({"name": "l1"}, functional.l1_loss),
        ({"name": "smooth_l1", "beta": 0.5}, lambda p, t: functional.huber_loss(p, t, delta=0.5) / 0.5),
    ],
    ids=["mse", "l1", "smooth_l1"],
)
def test_losses_are_in_standard_deviations(loss, independent):
    task = build_task(config_of(loss=loss))
    batch = whole(task, "train")
    truth = (batch.targets - batch.targets.mean()) / batch.targets.std(correction=0)
    expected = independent(task.model(batch.inputs)[:, 0], truth)
    torch.testing.assert_close(task.losses(task.model, batch)[loss["name"]].mean, expected, rtol=1e-4, atol=1e-5)


def test_a_perfect_model_is_perfect_in_its_own_unit():
    task = build_task(config_of())
    batch = whole(task, "val")
    standardised = (batch.targets - task.target_mean) / task.target_std
    terms, answers = task.evaluate(lambda inputs: standardised[:, None], batch)
    torch.testing.assert_close(answers, batch.targets)
    assert terms["mse"].mean == 0
    metrics = task.metrics()
    metrics.update(answers, batch)
    assert metrics.compute() == pytest.approx({"mae": 0, "rmse": 0, "r2": 1}, abs=1e-4)


def test_a_few_steps_explain_half_the_variance():
    config = config_of()
    task, runtime = build_task(config), decide_runtime(config)
    optimizer = torch.optim.Adam(task.model.parameters(), lr=0.05)
    task.train_mode(0)
    feed = task.feed(runtime)
    for _, batch in zip(range(80), feed.train_batches(0), strict=False):
        optimizer.zero_grad()
        total(task.losses(task.model, batch)).backward()
        optimizer.step()
    scores, metrics = evaluate_split(task, task.model, feed, "train", runtime)
    feed.close()
    assert 0.45 < scores["r2"] < 0.6  # least squares reaches 0.52 on all 442 rows
    assert task.primary in metrics.directions


def test_answers_and_misses_are_drawn():
    task = build_task(config_of())
    batch = whole(task, "val")
    drawn = {}
    for offset in (0.0, 90.0):
        metrics = task.metrics("val")
        metrics.update(batch.targets + offset, batch)
        drawn[offset] = task.pictures("val", metrics)
    assert drawn[0.0].keys() == {"predicted and true", "residuals"}
    for title, exact in drawn[0.0].items():
        assert (np.asarray(exact)[:, -2:] == 255).all(), "nothing runs off the page"
        assert np.asarray(exact).shape == np.asarray(drawn[90.0][title]).shape
        assert (np.asarray(exact) != np.asarray(drawn[90.0][title])).any(), "the misses show"
    assert not isinstance(task, DrawsBatches)


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_answers_that_are_not_finite_are_left_out_of_pictures(value):
    task = build_task(config_of())
    batch, metrics = whole(task, "val"), task.metrics("val")
    answers = batch.targets.clone()
    answers[3] = value
    metrics.update(answers, batch)
    assert 3 not in metrics.details()["residuals"]["index"]
    assert len(task.pictures("val", metrics)) == 2
    hopeless = task.metrics("val")
    hopeless.update(torch.full_like(answers, value), batch)
    assert task.pictures("val", hopeless) == {}


def test_predicting_needs_no_data(tmp_path):
    config = csv_config(tmp_path / "data.csv", 10.0)
    task = build_task(config)
    batch = whole(task, "test")
    (tmp_path / "data.csv").unlink()
    predictor = build_predictor(config, task.facts)
    predictor.model.load_state_dict(task.model.state_dict())
    answers = predictor.predict(predictor.model, batch.inputs)
    torch.testing.assert_close(answers, task.evaluate(task.model, batch)[1])
    assert predictor.records(answers)[0] == {"y": pytest.approx(answers[0].item(), rel=1e-6)}


def test_a_checkpoints_scale_is_adopted():
    task = build_task(config_of())
    batch = whole(task, "val")
    before = task.evaluate(task.model, batch)[1]
    preparation = task.info.preparation | {"target_mean": task.target_mean + 7}
    task.adopt({"data": task.info.to_plain() | {"preparation": preparation}})
    torch.testing.assert_close(task.evaluate(task.model, batch)[1], before + 7)


def test_what_is_told_before_training():
    told = dict(build_task(config_of()).describe())
    assert told["data"] == "diabetes (included)  310 train · 66 val · 66 test · progression 151.8 ± 78.54 · 10 features"
    assert told["model"].startswith("linear 10-1  11 parameters")
