"""Training at several sizes: the size by seed and step, objects and weights the same, cells and anchors of the size."""

import contextlib
from dataclasses import replace

import pytest
import torch

from mlcli.engine.contract import Batch
from mlcli.engine.evaluate import evaluate_split
from mlcli.engine.graphs import refuse_graphs
from mlcli.engine.ranks import ALONE
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.terms import total
from mlcli.errors import ConfigError
from mlcli.models.build import seeded
from mlcli.tasks.detection import build as detection
from mlcli.tasks.detection.build import build_task
from mlcli.tasks.detection.config import Detection
from mlcli.tasks.detection.data.feed import at_size
from mlcli.tasks.detection.models.build import build
from tests.engine.many import on_ranks
from tests.engine.test_ranks import trained
from tests.reliability.soak import LONG
from tests.tasks.detection.narrow import NARROW
from tests.tasks.detection.rectangles import rectangles


def config_of(model=NARROW[0], image_size=96, scale=None, **train) -> Detection:
    settings = {"epochs": 3, "batch_size": 8, "device": "cpu", **train}
    plain = {"task": "detection", "data": {"name": "scenes", "images": 24, "image_size": image_size}, "model": model,
             "optimizer": {"name": "adamw"}, "train": settings, "loader": {"workers": 0},
             "multi_scale": scale or {"least": 64, "most": 128, "every": 2}}  # fmt: skip
    return Detection.model_validate(plain)


@pytest.mark.parametrize("model", NARROW if LONG else NARROW[:3], ids=lambda model: "-".join(map(str, model.values())))
def test_a_model_at_another_size_is_one_built_for_it(model):
    """Same loss, same detections, same weights, and back again."""
    sizes = (96, 128) if model["name"] == "ssd" else (64, 96)  # at 64 pixels it has fewer maps
    task = build_task(config_of(model, sizes[1], {"least": sizes[0], "most": sizes[1]}))
    losses, found = {}, {}
    for side in (*sizes, sizes[0]):
        images, targets = rectangles(side, side, 2)
        if model["name"] in ("rcnn", "fast_rcnn"):
            targets = replace(targets, proposals_xyxy=torch.tensor([[[2.0, 3, 40, 44], [10, 10, 60, 50]]] * 2))
        targets = replace(targets, keys=torch.tensor([5, 6]))
        with seeded(0):
            built = build(task.config.model, replace(task.info, input_shape=(3, side, side)))
        built.load_state_dict(task.model.state_dict())
        for detector in (task.model, built):
            detector.train()
            batch = Batch(images, targets, torch.arange(2))
            torch.manual_seed(1)
            losses[detector] = total(task.losses(detector, batch))
            detector.eval()
            found[detector] = task.evaluate(detector, batch)[1]
        assert task.model.image_size == (side, side)
        assert torch.equal(losses[task.model], losses[built])
        assert torch.equal(found[task.model].boxes_xyxy, found[built].boxes_xyxy)
        if hasattr(built, "candidates") and model["name"] in ("yolo", "ssd"):
            ours, theirs = (one.candidates(one.predict(one.normalize(images)))[0] for one in (task.model, built))
            assert torch.equal(ours, theirs)
            assert ours.max() > side / 2


def test_the_size_follows_from_seed_and_step():
    task = build_task(config_of())
    runtime = decide_runtime(task.config)
    with contextlib.closing(task.feed(runtime)) as feed:
        batches = [batch for _, batch in zip(range(9), feed.train_batches(0), strict=False)]
        resumed = [batch for _, batch in zip(range(4), feed.train_batches(5), strict=False)]
    sizes = [tuple(batch.inputs.shape[2:]) for batch in batches]
    assert all(one == other for one, other in zip(sizes[::2], sizes[1::2], strict=False))
    assert len({*sizes}) > 1
    assert {*sizes} <= {(64, 64), (96, 96), (128, 128)}
    for ours, theirs in zip(batches[5:], resumed, strict=True):
        assert all(map(torch.equal, ours.tensors(), theirs.tensors()))
    other = build_task(config_of(seed=1))
    with contextlib.closing(other.feed(runtime)) as feed:
        others = [tuple(batch.inputs.shape[2:]) for _, batch in zip(range(40), feed.train_batches(0), strict=False)]
    with contextlib.closing(task.feed(runtime)) as feed:
        ours = [tuple(batch.inputs.shape[2:]) for _, batch in zip(range(40), feed.train_batches(0), strict=False)]
    assert ours != others
    assert {*ours} == {(64, 64), (96, 96), (128, 128)}


def test_it_is_measured_at_the_size_of_the_configuration():
    task = build_task(config_of())
    runtime = decide_runtime(task.config)
    with contextlib.closing(task.feed(runtime)) as feed:
        before, _ = evaluate_split(task, task.model, feed, "val", runtime)
        step = next(batch for batch in feed.train_batches(0) if batch.inputs.shape[2] == 128)
        task.losses(task.model, step)  # in evaluation mode, which changes no weight
        assert task.model.image_size == (128, 128)
        after, _ = evaluate_split(task, task.model, feed, "val", runtime)
    assert task.model.image_size == (96, 96)
    assert before == pytest.approx(after, nan_ok=True)


@pytest.mark.skipif(not LONG, reason="two processes and one: make soak")
def test_several_processes_take_the_same_sizes():
    """They come to the weights of one process that takes each step in two parts, to the bit."""
    config = config_of(threads=1, precision="fp32", sync_batch_norm=False)
    halves = config.model_copy(update={"train": config.train.model_copy(update={"accumulate": 2})})
    expected, loss = trained(ALONE, halves, detection, 3)
    for weights, theirs in on_ranks(2, trained, config, detection, 3):
        assert theirs == loss
        learned = [name for name in expected if "running" not in name and "num_batches" not in name]
        assert all(torch.equal(expected[name], weights[name]) for name in learned)  # statistics are averaged


def test_objects_are_resized_with_the_picture():
    images, targets = rectangles(96, 64, 3)
    for size in ((192, 128), (48, 32), (96, 64)):
        resized, moved = at_size(images, targets, size)
        assert resized.shape[2:] == size
        assert torch.allclose(moved.boxes_xyxy * (96 / size[0]), targets.boxes_xyxy)
        for picture, row in targets.valid.nonzero().tolist():
            ys, xs = moved.masks[picture, row].nonzero().unbind(1)
            if len(ys) and row == int(targets.valid[picture].sum()) - 1:  # on top of the others
                x1, y1, x2, y2 = moved.boxes_xyxy[picture, row].tolist()
                around = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
                assert around == pytest.approx([x1, y1, x2, y2], abs=1)
                label = int(targets.labels[picture, row]) - 1
                middle = resized[picture, label, (int(y1) + int(y2)) // 2, (int(x1) + int(x2)) // 2]
                assert middle > 180


@pytest.mark.parametrize(
    ("image_size", "scale", "sizes"),
    [
        (96, {"least": 64, "most": 128}, [(64, 64), (96, 96), (128, 128)]),
        (128, {}, [(96, 96), (128, 128), (160, 160)]),
        ((96, 128), {"least": 60, "most": 256}, [(96, 128), (192, 256)]),
        (96, {"least": 65, "most": 127}, None),
        (96, {"least": 128, "most": 64}, None),
        (96, {"least": 100, "most": 100}, None),
        ((96, 160), {}, None),
    ],
)
def test_sizes_are_those_of_which_both_sides_fit(image_size, scale, sizes):
    if sizes is None:
        with pytest.raises(ValueError, match=r"more than most|fewer than two sizes fit"):
            config_of(image_size=image_size, scale=scale)
        return
    config = config_of(image_size=image_size, scale=scale or {"every": 10})
    assert config.multi_scale.sizes(config.image_size) == sizes


def test_what_is_not_a_size_is_refused():
    for scale in ([64, 128], {"least": [64, 96], "most": 128}, {"least": 0}, {"every": 0}, {"most": -32}):
        with pytest.raises(ValueError, match="multi_scale"):
            config_of(scale=scale)


def test_weights_that_differ_by_size_are_refused():
    """An SSD has as many maps as fit."""
    with pytest.raises(ConfigError, match="has other weights at"):
        build_task(config_of({"name": "ssd", "width": 4}, scale={"least": 32, "most": 256}))


def test_it_is_said_before_training_and_graphs_are_refused():
    task = build_task(config_of(cuda_graphs=True, compile=True))
    lines = dict(task.describe())
    assert lines["sizes"] == "3 by turns, 64x64 to 128x128, another every 2 steps; measured at 96x96"
    assert "compiled again for other sizes" in lines["warning"]
    with pytest.raises(ConfigError, match="CUDA graphs"):
        refuse_graphs(task, task.config.train, decide_runtime(task.config))
