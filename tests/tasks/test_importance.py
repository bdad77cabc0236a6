"""Permutation importance of a table's columns, on models whose weights say what their answers rest on."""

import numpy as np
import pytest
import torch

from mlcli.experiment import Experiment


@pytest.fixture
def table(tmp_path):
    noise = np.random.default_rng(0)
    colours = noise.choice(["red", "green", "blue"], 400)
    rows = [f"{a:.4f},{b:.4f},{colour}" for a, b, colour in zip(*noise.normal(size=(2, 400)), colours, strict=True)]
    answers = ["warm" if colour == "red" else "cold" for colour in colours]
    lines = [f"{row},{kind},{row.split(',')[0]}" for row, kind in zip(rows, answers, strict=True)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a,b,colour,kind,amount", *lines]))
    return path


def built(table, task: str, target: str, drop: str, weights: dict[str, float]):
    """A linear model that answers from these features alone, in their standardised units."""
    data = {"name": "csv", "file": str(table), "target": target, "drop": [drop]}
    made = Experiment.of_mapping({"task": task, "data": data, "model": {"name": "linear"}}).build()
    features = made.info.preparation["features"]
    *_, weight, bias = made.model.parameters()
    with torch.no_grad():
        bias.zero_()
        weight.zero_()
        for name, value in weights.items():
            weight[-1, features.index(name)] = value
    return made


def test_what_a_class_rests_on(table):
    weights = {"colour=red": 1.0, "colour=green": -1.0, "colour=blue": -1.0}
    found = built(table, "classification", "kind", "amount", weights).importance("test")
    assert (found["metric"], found["repeats"], found["samples"]) == ("accuracy", 5, 60)
    (first, *rest) = found["columns"]
    assert first["name"] == "colour"
    assert first["mean"] == pytest.approx(
        4 / 9, abs=0.1
    )  # of two thirds cold, a shuffled third of each is called wrong
    assert 0 < first["std"] < 0.1
    assert sorted(column["name"] for column in rest) == ["a", "b"]
    assert all(column["mean"] == column["std"] == 0 for column in rest)


def test_what_an_amount_rests_on(table):
    task = built(table, "regression", "amount", "kind", {"a": 1.0})
    found = task.importance("test")
    assert found["columns"][0]["name"] == "a"
    spread = task.source.splits["test"].targets.std().item()
    assert found["columns"][0]["mean"] == pytest.approx(2**0.5 * spread, rel=0.15)  # of two values dealt by chance
    assert task.importance("test") == found


def test_answers_that_are_not_finite_have_none(table):
    assert built(table, "regression", "amount", "kind", {"a": float("inf")}).importance("test") is None


def test_images_and_too_many_columns_have_none(table, monkeypatch):
    digits = {"task": "classification", "data": {"name": "digits"}, "model": {"name": "linear"}}
    assert Experiment.of_mapping(digits).build().importance("test") is None
    monkeypatch.setattr("mlcli.tasks.samples.MOST_PASSES", 6)
    task = built(table, "regression", "amount", "kind", {"a": 1.0})
    assert task.importance("test")["repeats"] == 2
    monkeypatch.setattr("mlcli.tasks.samples.MOST_PASSES", 5)
    assert task.importance("test") is None
