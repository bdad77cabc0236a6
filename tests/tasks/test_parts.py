"""A step of a classification or regression is the same however it is cut into parts, and so is its loss."""

from itertools import islice

import pytest
import torch
from pydantic import TypeAdapter

from mlcli.engine.runtime import decide_runtime
from mlcli.engine.settings import TrainerSettings
from mlcli.tasks.classification import build as classification
from mlcli.tasks.classification.config import Classification
from mlcli.tasks.regression import build as regression
from mlcli.tasks.regression.config import Regression
from tests.engine.parts import check_same, step_gradients

MLP = {"name": "mlp", "hidden": [16]}
MIXED = [{"name": "mixup", "alpha": 0.8}, {"name": "cutmix"}]
TRAIN = {"batch_size": 32, "device": "cpu", "threads": 1, "precision": "fp32"}


def check_cuts(build, config) -> None:
    task, gradients = build.build_task(config), {}
    runtime = decide_runtime(config)
    task.train_mode(0)
    for parts in (1, 2, 4, 16, 5):
        feed = task.feed(runtime, train=config.train.model_copy(update={"accumulate": parts}))
        gradients[parts] = step_gradients(task, islice(feed.train_batches(5), parts))
        feed.close()
        check_same(gradients[1], gradients[parts])


@pytest.mark.parametrize(
    ("mix", "weights"),
    [([], "none"), ([], "balanced"), (MIXED[:1], "balanced"), (MIXED, "balanced")],
    ids=["plain", "weights", "mixup", "mixup or cutmix"],
)
@pytest.mark.parametrize(
    "loss",
    [
        {"name": "cross_entropy"},
        {"name": "cross_entropy", "label_smoothing": 0.1},
        {"name": "bce", "label_smoothing": 0.1},
        {"name": "focal"},
        {"name": "hinge"},
        {"name": "mse"},
        {"name": "l1"},
        {"name": "smooth_l1"},
    ],
    ids=lambda loss: loss["name"] + " smoothed" * ("label_smoothing" in loss),
)
def test_classification(loss, weights, mix):
    if mix and loss["name"] == "hinge":
        pytest.skip("hinge cannot express blends")
    sections = {"data": {"name": "digits"}, "model": MLP, "optimizer": {"name": "sgd", "lr": 0.1}, "train": TRAIN}
    sections |= {
        "loss": {**loss, "class_weights": weights},
        "loader": {"sampler": "balanced" if len(mix) == 2 else "shuffle"},
    }
    sections |= {"augment": [{"name": "rotation", "degrees": 10}, *mix]}
    config = TypeAdapter(Classification).validate_python({"task": "classification", **sections})
    check_cuts(classification, config)


@pytest.mark.parametrize("loss", ["mse", "l1", "smooth_l1"])
def test_regression(loss):
    sections = {"data": {"name": "diabetes"}, "model": MLP, "optimizer": {"name": "sgd", "lr": 0.1}, "train": TRAIN}
    check_cuts(
        regression, TypeAdapter(Regression).validate_python({"task": "regression", **sections, "loss": {"name": loss}})
    )


def test_what_dropout_draws_is_a_function_of_the_step_and_the_part():
    train = TypeAdapter(TrainerSettings).validate_python({"optimizer": {"name": "sgd", "lr": 0.1}, "train": TRAIN})
    runtime, drawn = decide_runtime(train), []
    for step, part in ((3, 0), (3, 1), (3, 2), (4, 1), (3, 1)):
        runtime.seed_step(step, part)
        drawn.append(torch.rand(4))
    assert torch.equal(drawn[1], drawn[4])
    assert len({tuple(one.tolist()) for one in drawn}) == 4
