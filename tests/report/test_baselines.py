"""Classical models on real, small data: their scores, their bounds, and the cache."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from threadpoolctl import threadpool_info

from mlcli.data.info import DataInfo
from mlcli.data.source import Arrays
from mlcli.engine.contract import Batch
from mlcli.engine.run import create_run
from mlcli.experiment import Experiment
from mlcli.report import baselines as module
from mlcli.report import classical
from mlcli.report.baselines import baselines, class_scores, measure_baselines, number_scores
from mlcli.report.classical import spread
from mlcli.tasks.classification.metrics import ClassificationMetrics
from mlcli.tasks.regression.task import RegressionMetrics

WINE = "task: classification\ndata: {name: wine}\nmodel: {name: linear}\n"
DIABETES = "task: regression\ndata: {name: diabetes}\nmodel: {name: linear}\n"


KINDS = {
    "logistic regression": LogisticRegression,
    "random forest": RandomForestClassifier,
    "pruned decision tree": DecisionTreeClassifier,
}


def task_of(folder: Path, text: str, *overrides: str):
    (folder / "x.yaml").write_text(text)
    return Experiment.load(folder / "x.yaml", list(overrides)).build()


def baselines_of(task, cache: Path, **options):
    return baselines(task.source, task.config.data.model_dump(mode="json"), cache, **options)


def fingerprint_of(task, split: str, budget_s: float) -> str:
    return module.fingerprint(task.source, task.config.data.model_dump(mode="json"), split, budget_s)


@pytest.fixture(scope="module")
def wine(tmp_path_factory):
    return task_of(tmp_path_factory.mktemp("wine"), WINE)


@pytest.fixture(scope="module")
def of_wine(wine, tmp_path_factory):
    return baselines_of(wine, tmp_path_factory.mktemp("cache"))


def test_classification(wine, of_wine):
    assert [e.name for e in of_wine.entries] == [model.name for model in classical.FOR_CLASSES]
    assert of_wine.split == "test"
    assert of_wine.samples == of_wine.samples_there == wine.splits["test"]
    assert all(e.rows == of_wine.rows_there == wine.splits["train"] for e in of_wine.entries)
    train, test = wine.source.splits["train"].targets.numpy(), wine.source.splits["test"].targets.numpy()
    dummy = DummyClassifier().fit(np.zeros((len(train), 1)), train)
    assert of_wine.entries[0].scores["accuracy"] == dummy.score(np.zeros((len(test), 1)), test)
    for entry in of_wine.entries[1:]:  # wine is easy: all of scikit-learn's examples are above
        assert entry.scores["accuracy"] > 0.85, entry.name
    assert of_wine.best("accuracy", "max").scores["accuracy"] >= 0.96
    assert of_wine.best("rmse", "min") is None


def test_regression(tmp_path):
    task = task_of(tmp_path, DIABETES)
    found = baselines_of(task, tmp_path / "cache")
    assert [e.name for e in found.entries] == [model.name for model in classical.FOR_NUMBERS]
    train, test = task.source.splits["train"], task.source.splits["test"]
    mean = train.targets.mean()
    assert found.entries[0].scores["rmse"] == pytest.approx(
        (test.targets - mean).square().mean().sqrt().item(), rel=1e-5
    )
    info = task.info
    scaled = [(s.inputs.numpy() - np.array(info.mean)) / np.array(info.std) for s in (train, test)]
    ridge = Ridge(alpha=float(found.entries[1].note.split()[-1])).fit(scaled[0], train.targets)
    miss = ridge.predict(scaled[1]) - test.targets.numpy()
    assert found.entries[1].scores["rmse"] == pytest.approx(float(np.sqrt((miss**2).mean())), rel=1e-3)
    assert found.best("rmse", "min").scores["rmse"] < 0.75 * found.entries[0].scores["rmse"]


def test_scores_mean_what_the_run_s_own_mean():
    rng = np.random.default_rng(0)
    truth, answers = rng.integers(0, 4, 60), rng.integers(0, 3, 60)
    own = ClassificationMetrics(5, tuple("abcde"))
    batch = Batch(None, torch.from_numpy(truth), torch.arange(60))
    own.update(torch.nn.functional.one_hot(torch.from_numpy(answers), 5).float(), batch)
    for name, value in class_scores(truth, answers).items():
        assert value == pytest.approx(own.compute()[name]), name
    numbers = RegressionMetrics()
    targets = torch.randn(60, generator=torch.Generator().manual_seed(0))
    numbers.update(targets * 0.5, Batch(None, targets, torch.arange(60)))
    for name, value in number_scores(targets.numpy(), (targets * 0.5).numpy()).items():
        assert value == pytest.approx(numbers.compute()[name], rel=1e-5), name


def test_kept_per_data_set(wine, of_wine, tmp_path):
    told = []
    first = baselines_of(wine, tmp_path, say=lambda: told.append("fitting"))
    again = baselines_of(wine, tmp_path, say=lambda: told.append("fitting"))
    assert told == ["fitting"]
    assert again == first
    assert [(e.name, e.scores, e.note) for e in first.entries] == [(e.name, e.scores, e.note) for e in of_wine.entries]
    (file,) = tmp_path.iterdir()
    assert module.read_baselines(file) == first
    for damage in ("{", "[]", '{"split": "test"}', '{"entries": 5}', file.read_text()[:-40]):
        file.write_text(damage)
        assert module.read_baselines(file) is None
    assert baselines_of(wine, tmp_path).entries[0].scores == first.entries[0].scores
    assert json.loads(file.read_text())["split"] == "test"


def test_other_data_are_not_taken_for_these(wine, tmp_path):
    known = fingerprint_of(wine, "test", 20.0)
    assert fingerprint_of(task_of(tmp_path, WINE), "test", 20.0) == known
    assert fingerprint_of(task_of(tmp_path, WINE, "data.split_seed=1"), "test", 20.0) != known
    assert fingerprint_of(wine, "val", 20.0) != known
    assert fingerprint_of(wine, "test", 10.0) != known
    other = task_of(tmp_path, WINE)
    other.source.splits["test"].targets[0] = 2 - other.source.splits["test"].targets[0] % 2
    assert fingerprint_of(other, "test", 20.0) != known


def images(samples: int, classes: int, side: int = 20):
    """Squares whose brightness tells their class."""
    labels = torch.arange(samples) % classes
    noise = torch.randint(0, 20, (samples, 3, side, side), generator=torch.Generator().manual_seed(0))
    return Arrays((noise + (labels * (230 // classes)).view(-1, 1, 1, 1)).to(torch.uint8), labels, "made")


def info_of(classes: int, side: int = 20) -> DataInfo:
    names = tuple(map(str, range(classes)))
    return DataInfo("image", (3, side, side), names, "label", (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def patient(monkeypatch):
    """However busy the machine is."""
    monkeypatch.setattr(module, "PATIENCE", float("inf"))


def test_slow_models_get_fewer_rows_and_say_so(patient):
    found = measure_baselines(info_of(4, 8), images(900, 4, 8), images(100, 4, 8), "val", budget_s=1.0)
    rows = {e.name: e.rows for e in found.entries}
    assert rows["most frequent class"] == rows["logistic regression"] == found.rows_there == 900
    assert rows["random forest"] == rows["pruned decision tree"] == 781  # 0.3 s of 2 us for each of 192 pixels
    assert found.best("accuracy", "max").scores["accuracy"] > 0.95


def test_a_busy_machine_is_told_of_and_not_remembered(wine, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", -1.0)
    found = baselines_of(wine, tmp_path)
    assert [e.name for e in found.entries] == ["most frequent class"]
    assert found.notes[-1].startswith("left out, the machine was too busy or slow: logistic regression")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["logistic regression", "random forest", "pruned decision tree"])
def test_a_model_that_is_not_done_in_time_is_given_up(monkeypatch, model):
    """The clock jumps as soon as the model under way has fitted a first part."""
    now, fits, kind = [0.0], [], KINDS[model]
    monkeypatch.setattr(classical.time, "monotonic", lambda: now[0])

    def watched(self, *arguments, fit=kind.fit):
        fits.append(now[0])
        now[0] += 41.0
        return fit(self, *arguments)

    monkeypatch.setattr(kind, "fit", watched)
    found = measure_baselines(info_of(4, 8), images(200, 4, 8), images(50, 4, 8), "val")
    assert model in found.left_out
    assert fits == [0.0], "no part is begun after the time is over"
    assert not found.complete
    assert all(entry.name not in found.left_out for entry in found.entries)


@pytest.mark.parametrize("is_classes", [True, False])
def test_the_forest_is_that_of_one_fit(is_classes):
    inputs, targets = (load_digits if is_classes else load_diabetes)(return_X_y=True)
    answers, words = classical.forest(classical.Problem(inputs[:200], targets[:200], inputs[200:], is_classes))
    one = RandomForestClassifier(100) if is_classes else RandomForestRegressor(100, max_features=1 / 3)
    same = one.set_params(random_state=0).fit(inputs[:200], targets[:200])
    assert np.array_equal(answers, same.predict(inputs[200:]))
    assert words == "100 trees"


def test_what_cannot_afford_enough_rows_is_left_out(patient):
    found = measure_baselines(info_of(60), images(1200, 60), images(120, 60), "val", budget_s=0.5)
    assert [e.name for e in found.entries] == ["most frequent class"]
    assert found.notes[-1].startswith(
        "left out, too slow for so many inputs and classes: logistic regression, random forest"
    )


def test_any_first_part_of_the_rows_has_the_shares_of_the_classes():
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    order = spread(labels, 1000, is_classes=True)
    assert sorted(order) == list(range(1000))
    for count in (20, 100, 500):
        shares = np.bincount(labels[order[:count]], minlength=3) / count
        np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=0.03)
    assert (order == spread(labels, 1000, is_classes=True)).all()


def test_a_class_with_one_sample_is_no_obstacle(capfd):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60, 3)).astype(np.float32)
    targets = np.r_[np.zeros(30, int), np.ones(29, int), 2]
    with warnings.catch_warnings(action="ignore"):
        for model in classical.FOR_CLASSES:
            answers, _ = model.fit(classical.Problem(inputs, targets, inputs, is_classes=True))
            assert answers.shape == (60,)
    assert capfd.readouterr().err == ""


def test_a_task_without_labels_or_numbers_has_no_baselines(tmp_path):
    class Boxes:
        source = type("Source", (), {"info": info_of(2).__class__("image", (3, 8, 8), ("a",), "boxes", (0,), (1,))})()

    run = create_run(tmp_path, "boxes")
    module.write_baselines(Boxes(), run)
    assert not (run.path / "baselines.json").exists()


TREES = {
    "classes": (DecisionTreeClassifier, *load_digits(return_X_y=True)),
    "numbers": (DecisionTreeRegressor, *load_diabetes(return_X_y=True)),
}


@pytest.mark.parametrize("data", TREES.values(), ids=TREES)
def test_a_pruned_tree_is_the_one_that_scikit_learn_grows(data):
    kind, inputs, targets = data
    part = np.random.default_rng(0).permutation(len(targets))
    fit, asked = part[: len(part) // 2], part[len(part) // 2 :]
    fitted = kind(random_state=0).fit(inputs[fit], targets[fit])
    alphas = classical.pruning_alphas(fitted, 12)
    assert len(alphas) == 12
    assert alphas[0] == 0
    for alpha, form in zip(alphas, classical.pruned_forms(fitted, alphas), strict=True):
        one = kind(random_state=0, ccp_alpha=alpha).fit(inputs[fit], targets[fit])
        assert form.get_n_leaves() == one.get_n_leaves()
        np.testing.assert_allclose(form.predict(inputs[asked]), one.predict(inputs[asked]))
    assert fitted.get_n_leaves() > one.get_n_leaves(), "the tree itself is left as it was"
    (stump,) = classical.pruned_forms(fitted, np.array([np.inf]))
    assert stump.get_n_leaves() == 1


def test_the_alphas_lie_between_those_of_scikit_learn():
    inputs, targets = load_diabetes(return_X_y=True)
    fitted = DecisionTreeRegressor(random_state=0, max_depth=6).fit(inputs, targets)
    path = DecisionTreeRegressor(random_state=0, max_depth=6).cost_complexity_pruning_path(inputs, targets)
    alphas = classical.pruning_alphas(fitted, 1000)
    assert alphas[-1] == pytest.approx(2**0.5 * path.ccp_alphas.max())
    assert len(alphas) == len(np.unique(path.ccp_alphas))


def test_a_tree_that_is_a_leaf():
    fitted = DecisionTreeClassifier().fit(np.zeros((4, 1)), ["a", "a", "a", "b"])
    assert classical.pruning_alphas(fitted).tolist() == [0.0]
    (form,) = classical.pruned_forms(fitted, np.zeros(1))
    assert form.get_n_leaves() == 1
    assert form.predict(np.zeros((2, 1))).tolist() == ["a", "a"]


@pytest.mark.parametrize("is_classes", [True, False])
def test_boosting_is_scikit_learns_on_one_thread(monkeypatch, is_classes):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(300, 2)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64) if is_classes else (x[:, 0] * x[:, 1]).astype(np.float32)
    kind = HistGradientBoostingClassifier if is_classes else HistGradientBoostingRegressor
    threads, fit = [], kind.fit

    def watched(self, *arguments):
        threads.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp")
        return fit(self, *arguments)

    monkeypatch.setattr(kind, "fit", watched)
    answers, words = classical.boosting(classical.Problem(x[:200], y[:200], x[200:], is_classes))
    assert set(threads) == {1}
    assert words == "40 rounds"
    same = kind(max_iter=40, learning_rate=0.2, early_stopping=False).fit(x[:200], y[:200])
    assert np.array_equal(answers, same.predict(x[200:]))
    if is_classes:
        assert (answers == y[200:]).mean() > 0.9  # which no straight line gives
