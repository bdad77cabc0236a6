"""The classification task as the trainer and the commands use it, on real small data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter

from mlcli.engine.checkpoint import save_checkpoint
from mlcli.engine.contract import Batch
from mlcli.engine.evaluate import evaluate_split
from mlcli.engine.runtime import Runtime, decide_runtime
from mlcli.engine.terms import total
from mlcli.errors import CheckpointError, ConfigError
from mlcli.tasks.classification.build import build_predictor, build_task
from mlcli.tasks.classification.config import Classification
from mlcli.tasks.classification.losses import class_weights
from mlcli.tasks.classification.task import ClassificationTask


def config_of(**sections) -> Classification:
    plain = {
        "task": "classification",
        "data": {"name": "wine"},
        "model": {"name": "mlp", "hidden": [8]},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "train": {"batch_size": 32, "device": "cpu", "threads": 1},
    }
    return TypeAdapter(Classification).validate_python(plain | sections)


@pytest.fixture
def runtime() -> Runtime:
    return decide_runtime(config_of())


def weights_of(task: ClassificationTask) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in task.model.parameters()])


def some_batch(task: ClassificationTask, size: int = 16) -> Batch:
    samples, rows = task.source.splits["train"], torch.arange(size)
    return Batch(samples.read(rows.numpy()), samples.targets[rows], rows)


def test_first_weights_follow_from_the_seed_alone():
    before = torch.get_rng_state()
    first = weights_of(build_task(config_of()))
    assert torch.equal(torch.get_rng_state(), before), "the global generator was touched"
    torch.rand(5)
    assert torch.equal(first, weights_of(build_task(config_of())))
    other = config_of(train={"seed": 1, "device": "cpu", "threads": 1})
    assert not torch.equal(first, weights_of(build_task(other)))


def test_facts_are_plain_data_and_enough_to_predict(tmp_path):
    """The predictor made from a checkpoint's config and facts answers alike, its data being gone."""
    rows = "\n".join(f"{i},{i % 7},{'ab'[i % 2]}" for i in range(60))
    (tmp_path / "data.csv").write_text("x,y,label\n" + rows)
    config = config_of(data={"name": "csv", "file": tmp_path / "data.csv", "target": "label"})
    task = build_task(config)
    save_checkpoint(tmp_path / "c.ckpt", {"model": task.model.state_dict(), "facts": task.facts})  # plain data only
    batch = some_batch(task)
    (tmp_path / "data.csv").unlink()
    saved = torch.load(tmp_path / "c.ckpt", weights_only=True)
    predictor = build_predictor(config, saved["facts"])
    predictor.model.load_state_dict(saved["model"])
    task.model.eval(), predictor.model.eval()
    expected = task.evaluate(task.model, batch)[1]
    torch.testing.assert_close(predictor.predict(predictor.model, batch.inputs), expected)
    assert predictor.records(expected)[0]["label"] in ("a", "b")


def test_evaluation_through_the_feed_is_that_of_one_large_batch(runtime):
    task = build_task(config_of())
    feed = task.feed(runtime)
    scores, metrics = evaluate_split(task, task.model, feed, "val", runtime)
    feed.close()
    samples = task.source.splits["val"]
    rows = torch.arange(len(samples))
    whole = Batch(samples.read(rows.numpy()), samples.targets, rows)
    terms, p = task.evaluate(task.model, whole)
    assert scores["loss"] == pytest.approx(terms["cross_entropy"].mean.item(), rel=1e-5)
    assert scores["accuracy"] == pytest.approx((p.argmax(1) == samples.targets).double().mean().item())
    assert task.splits["val"] == metrics.confusion.sum()
    assert scores.keys() - {"loss"} == metrics.directions.keys()
    assert task.primary in metrics.directions


@pytest.mark.parametrize("loss", ["cross_entropy", "hinge", "bce", "focal", "mse"])
def test_micro_batches_of_a_step_add_up_to_the_batch(loss, runtime):
    sections = {"model": {"name": "linear"}, "loss": {"name": loss, "class_weights": "balanced"}}
    gradients = []
    for accumulate in (1, 3):
        train = {"batch_size": 32, "accumulate": accumulate, "device": "cpu", "threads": 1}
        task = build_task(config_of(train=train, **sections))
        task.train_mode(0)
        feed = task.feed(runtime)
        batches = feed.train_batches(0)
        for _ in range(accumulate):
            batch = next(batches)
            total(task.losses(task.model, batch), 32).backward()
        feed.close()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in task.model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_few_steps_learn_wine(runtime):
    task = build_task(config_of())
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1, momentum=0.9)
    task.train_mode(0)
    feed = task.feed(runtime)
    for _, batch in zip(range(60), feed.train_batches(0), strict=False):
        optimizer.zero_grad()
        total(task.losses(task.model, batch)).backward()
        optimizer.step()
    scores, _ = evaluate_split(task, task.model, feed, "test", runtime)
    feed.close()
    assert scores["accuracy"] > 0.9


def test_class_weights_come_from_the_training_split():
    task = build_task(config_of(loss={"name": "cross_entropy", "class_weights": "balanced"}))
    expected = class_weights("balanced", task.source.splits["train"].targets, 3)
    torch.testing.assert_close(task.criterion.class_weights, expected)
    with pytest.raises(ConfigError, match="2 class weights for 3 classes"):
        build_task(config_of(loss={"name": "hinge", "class_weights": [1, 2]}))


def test_fine_tuning_loads_freezes_and_slows_the_trunk(tmp_path):
    teacher = build_task(config_of(train={"seed": 5, "device": "cpu", "threads": 1}))
    torch.save(teacher.model.state_dict(), tmp_path / "teacher.pth")
    finetune = {"weights": tmp_path / "teacher.pth", "freeze": ["hidden1.*"], "unfreeze_at": 2, "trunk_lr": 0.1}
    task = build_task(config_of(finetune=finetune))
    torch.testing.assert_close(weights_of(task), weights_of(teacher))
    named = dict(task.model.named_parameters())
    task.train_mode(0)
    assert not named["net.hidden1.weight"].requires_grad
    task.train_mode(1)
    assert named["net.hidden1.weight"].requires_grad
    assert task.lr_scale("net.hidden1.weight") == 0.1
    assert task.lr_scale("net.output.bias") == 1
    told = "\n".join(line for _, line in task.describe())
    assert f"loaded 4 of 4 tensors from {tmp_path / 'teacher.pth'}" in told
    assert "2 tensors frozen until epoch 2" in told
    assert "0.1 of the learning rate" in told


def test_a_saved_run_needs_no_weights_from_elsewhere(tmp_path):
    config = config_of(
        model={"name": "torchvision", "arch": "squeezenet1_1", "weights": tmp_path / "gone.pth"},
        finetune={"weights": tmp_path / "gone.ckpt"},
    )
    assert config.from_scratch().model.weights == "none"
    assert config.from_scratch().finetune is None
    with pytest.raises(CheckpointError):
        build_task(config_of(finetune={"weights": tmp_path / "gone.ckpt"}))
    build_task(config_of(finetune={"weights": tmp_path / "gone.ckpt"}).from_scratch())


def test_what_is_told_before_training():
    told = dict(build_task(config_of(data={"name": "digits"}, model={"name": "linear"})).describe())
    assert told["data"].startswith("digits (included)  1,168 train · 270 val · 359 test · 10 classes, balanced")
    assert told["data"].endswith("8x8 grey")
    assert told["model"].startswith("linear 64-10  650 parameters (0.00 MB)")


def test_records_give_every_class_its_probability():
    task = build_task(config_of())
    (record,) = task.records(torch.tensor([[0.2, 0.7, 0.1]]))
    assert record == {
        "label": "class_1",
        "probability": 0.7,
        "probabilities": {"class_0": 0.2, "class_1": 0.7, "class_2": 0.1},
    }


def test_nothing_is_written_to_the_working_directory(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_task(config_of()).describe()
    assert not list(tmp_path.iterdir())


def judged(task: ClassificationTask, split: str = "val"):
    runtime = decide_runtime(task.config)
    feed = task.feed(runtime)
    _, metrics = evaluate_split(task, task.model, feed, split, runtime)
    feed.close()
    return metrics


def image_folder(root: Path, image_size: int) -> dict:
    """Files in folders by split and class, and the data section for them."""
    for split, count in (("train", 14), ("val", 4), ("test", 1)):
        for number, name in enumerate(("ant", "bee", "cow")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (20, 12), (80 * number, 10 * i, 200)).save(root / split / name / f"{i}.png")
    return {"name": "folder", "root": root, "image_size": image_size}


def test_images_get_all_pictures_and_rows_of_features_what_can_be_drawn(tmp_path):
    data = image_folder(tmp_path, 16)
    block = [{"name": "conv", "channels": 4}, {"name": "global_pool"}]
    images = build_task(config_of(data=data, model={"name": "cnn", "blocks": block}))
    drawn = images.pictures("val", judged(images))
    assert drawn.keys() == {"confusion", "calibration", "mistakes", "filters", "feature maps"}
    linear = build_task(config_of(data={"name": "digits"}, model={"name": "linear"}))
    assert linear.pictures("val", judged(linear)).keys() == {"confusion", "calibration", "mistakes", "filters"}
    rows = build_task(config_of())
    assert rows.pictures("val", judged(rows)).keys() == {"confusion", "calibration"}
    assert rows.batch_picture(some_batch(rows)) is None


def test_without_mistakes_there_is_no_sheet_of_them():
    task = build_task(config_of(data={"name": "digits"}, model={"name": "linear"}))
    metrics, labels = task.metrics("val"), task.source.splits["val"].targets
    metrics.update(torch.eye(10)[labels], Batch(None, labels, torch.arange(len(labels))))
    assert "mistakes" not in task.pictures("val", metrics)


def test_a_training_batch_is_drawn_with_blended_labels():
    task = build_task(
        config_of(data={"name": "digits"}, model={"name": "linear"}, augment=[{"name": "mixup", "alpha": 1.0}])
    )
    feed = task.feed(decide_runtime(task.config))
    batch = next(feed.train_batches(0))
    feed.close()
    assert batch.targets.ndim == 2
    assert isinstance(task.batch_picture(batch), Image.Image)


def test_details_name_the_files_behind_mistakes(tmp_path):
    task = build_task(config_of(data=image_folder(tmp_path, 16)))
    mistakes = judged(task).details()["mistakes"]
    assert mistakes
    for mistake in mistakes:
        assert mistake["name"] == task.source.splits["val"].name(mistake["index"])
        assert mistake["truth"] in mistake["name"], "files lie in folders of their classes"


def test_embeddings_are_the_inputs_of_the_last_layer():
    task = build_task(config_of(data={"name": "digits"}, model={"name": "mlp", "hidden": [5]}))
    features, labels, sprites = task.embeddings("val", limit=30)
    assert features.shape == (30, 5)
    samples = task.source.splits["val"]
    last = len(samples) - 1
    assert labels[0] == task.info.class_names[samples.targets[0]]
    assert labels[-1] == task.info.class_names[samples.targets[last]], "the whole split is sampled, not its beginning"
    expected = torch.nn.Sequential(*list(task.model.net)[:-1])(
        torch.addcmul(task.model.shift, samples.read(np.array([0, last])), task.model.scale)
    )
    torch.testing.assert_close(features[[0, -1]], expected.detach())
    assert sprites.shape == (30, 3, 32, 32)
    assert sprites.dtype == torch.uint8
    assert task.embeddings("val", limit=10**6).features.shape[0] == len(samples)
    assert build_task(config_of()).embeddings("val", 9).sprites is None


def test_embeddings_of_maps_are_their_means(tmp_path):
    model = {"name": "torchvision", "arch": "squeezenet1_1"}
    task = build_task(config_of(data=image_folder(tmp_path, 32), model=model))
    assert task.embeddings("val", limit=3).features.shape == (3, 512)
