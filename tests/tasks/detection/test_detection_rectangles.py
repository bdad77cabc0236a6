"""Pictures measured and predicted on without their grey bars: the same pixels, boxes and order, and less to look at."""

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlcli.commands.predict import Wanted, answers
from mlcli.data.decode import PAD_VALUE, Preparation
from mlcli.data.info import DataInfo
from mlcli.engine.contract import Batch
from mlcli.engine.evaluate import evaluate_split
from mlcli.engine.ranks import ALONE
from mlcli.engine.runtime import decide_runtime
from mlcli.models.build import seeded
from mlcli.saved import computing
from mlcli.tasks.detection import build as detection
from mlcli.tasks.detection.build import build_task
from mlcli.tasks.detection.config import Detection
from mlcli.tasks.detection.models.build import build
from mlcli.tasks.detection.models.detector import Detector
from mlcli.tasks.detection.models.sizes import Sizes
from mlcli.tasks.detection.predictor import ObjectDetector
from mlcli.tasks.detection.rectangles import begins, rectangles, without_bars
from mlcli.tasks.detection.targets import Detections
from tests.engine.many import on_ranks
from tests.engine.rig import StopAfter
from tests.engine.test_ranks import check_scores, trained
from tests.reliability.soak import LONG
from tests.reliability.tiny import metrics_without_times, session
from tests.tasks.detection import rectangles as painted
from tests.tasks.detection.narrow import NARROW

SIDE = 96
SIZES = [(96, 48), (300, 150), (50, 96), (96, 96), (31, 80), (96, 33), (96, 1)]
"""Width and height; at 96 pixels of 96x64, 96x64, 64x96, 96x96, 64x96, 96x64 and 96x32."""
MODELS = [section for section in NARROW if section["name"] not in ("ssd", "rcnn", "fast_rcnn")]


def write_pictures(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    """Dark pictures with one bright box each, in a CSV file."""
    random, rows = np.random.default_rng(0), ["filename,class,xmin,ymin,xmax,ymax"]
    for number, (width, height) in enumerate(sizes):
        pixels = np.full((height, width, 3), 20, dtype=np.uint8)
        x, y = random.integers(0, width // 2), random.integers(0, max(1, height // 2))
        right, bottom = x + max(1, width // 3), y + max(1, height // 3)
        pixels[y:bottom, x:right] = 255
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
        rows.append(f"{number:02d}.png,thing,{x},{y},{right},{bottom}")
    (folder / "boxes.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("mixed"), SIZES * 3)


def config_of(
    folder: Path, model=MODELS[0], rectangular: bool | str = True, cache: str = "ram", **sections
) -> Detection:
    data = {"name": "box_csv", "file": folder / "boxes.csv", "image_size": SIDE, "rectangular": rectangular, "val": 0.4}
    train = {"epochs": 2, "batch_size": 4, "device": "cpu", "threads": 1, "precision": "fp32", "baselines": False}
    return Detection.model_validate({
        "task": "detection", "data": data | sections.pop("data", {}), "model": {"score_threshold": 1e-4} | model,
        "optimizer": {"name": "adamw"}, "train": train, "loader": {"cache": cache, "workers": 0}, **sections
    })  # fmt: skip


class Bright(Detector):
    """Finds what is bright, exactly, and keeps which shapes it was given."""

    def __init__(self, image_size: tuple[int, int]) -> None:
        super().__init__(1, image_size)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images, targets=None):
        self.shapes.append(tuple(images.shape))
        assert images.shape[2:] == self.image_size
        boxes = torch.zeros(len(images), 2, 4)
        for row, image in enumerate(images[:, 0]):
            ys, xs = (image > 200).nonzero().unbind(1)
            boxes[row, 0] = torch.tensor([int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1])
        there = torch.tensor([[1, 0]] * len(images))
        return {}, Detections(boxes, there.float(), there)


def exact(task: ObjectDetector) -> Bright:
    """Have a task, or a predictor, answer exactly."""
    task.model = Bright((SIDE, SIDE))
    task._sizes = Sizes(Bright, "")
    return task.model


def test_a_rectangle_is_what_the_picture_fills_to_multiples_of_the_stride():
    found = rectangles(np.array([*SIZES, (1000, 10)]), (SIDE, SIDE)).tolist()
    assert found == [[64, 96], [64, 96], [96, 64], [96, 96], [96, 64], [64, 96], [32, 96], [32, 96]]
    assert rectangles(np.array([640, 320]), (320, 320)).tolist() == [160, 320]  # without any bar, with it as much again
    assert rectangles(np.array([640, 320]), (256, 320)).tolist() == [160, 320]
    assert rectangles(np.array([320, 640]), (256, 320)).tolist() == [256, 128]


@pytest.mark.parametrize("image_size", [(96, 96), (64, 160)])
def test_what_is_cut_off_is_grey_and_the_rest_is_as_if_read_at_that_size(tmp_path, image_size):
    random = np.random.default_rng(1)
    for number in range(30):
        width, height = random.integers(1, 200, 2).tolist()
        file = tmp_path / f"{number}.png"
        Image.fromarray(random.integers(0, 100, (height, width, 3), dtype=np.uint8)).save(file)
        size = height_cut, width_cut = tuple(rectangles(np.array([width, height]), image_size).tolist())
        whole, cut = (np.zeros((3, *shape), dtype=np.uint8) for shape in (image_size, size))
        Preparation(image_size, "pad").decode(file, whole)
        Preparation(size, "pad").decode(file, cut)
        top, left = begins(image_size, size)
        part = slice(top, top + height_cut), slice(left, left + width_cut)
        assert (whole[:, *part] == cut).all()
        whole[:, *part] = PAD_VALUE
        assert (whole == PAD_VALUE).all()


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_boxes_are_those_of_whole_inputs_to_the_bit_and_shapes_come_together(mixed, cache):
    found = {}
    for rectangular in (False, True):
        task = build_task(config_of(mixed, rectangular=rectangular, cache=cache))
        model = exact(task)
        with contextlib.closing(task.feed(decide_runtime(task.config))) as feed:
            for split in ("train", "val"):
                model.shapes.clear()
                scores, metrics = evaluate_split(task, model, feed, split, decide_runtime(task.config))
                found[rectangular, split] = scores, metrics.matches.found
                shapes = [shape[2:] for shape in model.shapes]  # of batches of up to 16 pictures
                assert len(shapes) == len({*shapes})
                assert {*shapes} <= ({(32, 96), (64, 96), (96, 64), (96, 96)} if rectangular else {(SIDE, SIDE)})
                assert len(shapes) >= (3 if rectangular else 1)
        assert model.image_size == (SIDE, SIDE)
    for split in ("train", "val"):
        (scores, ours), (theirs, whole) = found[True, split], found[False, split]
        assert scores == theirs
        assert scores["map50"] > 0.5
        assert (ours.pictures == whole.pictures).all()
        assert (ours.boxes_xyxy == whole.boxes_xyxy).all()


def test_objects_move_with_the_picture():
    images, targets = painted.rectangles(96, 96, 4)
    batch = Batch(images, replace(targets, masks=targets.masks), torch.arange(4))
    cut = without_bars(batch, np.array([(96, 20), (96, 50), (192, 64), (96, 64)]))
    assert cut.inputs.shape == (4, 3, 64, 96)
    assert torch.equal(cut.inputs, images[:, :, 16:80])
    assert torch.equal(cut.targets.masks, targets.masks[:, :, 16:80])
    moved = targets.boxes_xyxy - torch.tensor([0.0, 16, 0, 16])
    assert torch.equal(cut.targets.boxes_xyxy, moved * targets.valid[..., None])
    mixed = without_bars(batch, np.array([(96, 20), (20, 96), (192, 64), (96, 64)]))
    assert torch.equal(mixed.inputs, images)
    assert torch.equal(mixed.targets.boxes_xyxy, targets.boxes_xyxy)


@pytest.mark.parametrize("model", MODELS if LONG else MODELS[::3], ids=lambda model: "-".join(map(str, model.values())))
def test_a_model_in_a_rectangle_is_one_built_for_it_and_is_as_before_then(model):
    data = {"name": "scenes", "images": 20, "image_size": 96, "rectangular": True}
    task = build_task(Detection.model_validate(
        {"task": "detection", "data": data, "model": {"score_threshold": 1e-4} | model, "optimizer": {"name": "adamw"},
         "train": {"epochs": 1, "batch_size": 4, "device": "cpu"}}
    ))  # fmt: skip
    images, targets = painted.rectangles(64, 96, 2)
    with seeded(0):
        built = build(task.config.model, replace(task.info, input_shape=(3, 64, 96)))
    built.load_state_dict(task.model.state_dict())
    before = dict(task.model.named_buffers())
    task.model.eval()
    terms, found = task.computed(task.model, images, targets)
    their_terms, theirs = built.eval()(images, targets)
    moved = torch.tensor([0, 16, 0, 16]) * (theirs.labels > 0)[..., None]
    assert torch.equal(found.boxes_xyxy, theirs.boxes_xyxy + moved)
    assert torch.equal(found.scores, theirs.scores)
    assert (found.labels > 0).any()
    assert all(torch.equal(term.mean, their_terms[name].mean) for name, term in terms.items())
    assert task.model.image_size == (96, 96)
    assert all(value is before[name] for name, value in task.model.named_buffers())


def test_square_pictures_have_the_same_scores_to_the_bit(tmp_path):
    folder, found = write_pictures(tmp_path, [(96, 96), (40, 40), (200, 200), (96, 95)] * 3), []
    for rectangular in (False, True):
        with seeded(0):
            task = build_task(config_of(folder, rectangular=rectangular))
        runtime = decide_runtime(task.config)
        with contextlib.closing(task.feed(runtime)) as feed:
            found.append(evaluate_split(task, task.model, feed, "val", runtime))
    (scores, metrics), (theirs, others) = found
    assert scores == theirs
    assert (metrics.matches.found.boxes_xyxy == others.matches.found.boxes_xyxy).all()
    assert (metrics.matches.found.scores == others.matches.found.scores).all()


def test_files_are_answered_in_their_order_each_at_its_shape(mixed):
    info = DataInfo(
        kind="image", input_shape=(3, SIDE, SIDE), class_names=("thing",), target="boxes", mean=(0.5,) * 3,
        std=(0.25,) * 3, preparation={"image_size": [SIDE, SIDE], "fit": "pad", "channels": 3},
    )  # fmt: skip
    (mixed / "broken.png").write_text("no picture")
    files = [*sorted(mixed.glob("0*.png")), mixed / "broken.png", *sorted(mixed.glob("1*.png"))]
    records = {}
    for rectangular in (False, True):
        config = config_of(mixed, rectangular=rectangular)
        predictor = ObjectDetector(config, info)
        model = exact(predictor)
        compute = computing(predictor, decide_runtime(config))
        records[rectangular] = [*answers(predictor, compute, predictor.inputs(files), Wanted())]
    assert [record["input"] for record in records[True]] == [str(file) for file in files]
    assert "error" in records[True][10]
    assert records[True] == records[False]
    assert records[True][0]["objects"]
    assert sorted(shape[2:] for shape in model.shapes) == [(32, 96), (64, 96), (96, 64), (96, 96)]


@pytest.mark.parametrize("rectangular", [True, "train"])
def test_a_run_that_was_stopped_goes_on_to_the_same_scores(mixed, tmp_path, rectangular):
    config = config_of(mixed, rectangular=rectangular, augment=[{"name": "affine"}, {"name": "horizontal_flip"}])
    whole, _ = session(tmp_path / "whole", config)
    stopped, outcome = session(tmp_path / "stopped", config, stop=StopAfter(4))
    assert outcome != "finished"
    resumed, _ = session(tmp_path / "stopped", config, run=stopped.run)
    assert metrics_without_times(resumed.run) == metrics_without_times(whole.run)
    ours, theirs = (t.state.model.state_dict() for t in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_any_number_of_ranks_finds_the_scores_of_one(mixed):
    check_scores(config_of(mixed), detection, (1, 5, 13), sizes=(2, 3) if LONG else (3,))


def test_training_on_rectangles_sees_what_the_pictures_fill(mixed):
    """The pictures of whole inputs without the grey around them, each once an epoch, their boxes where they were."""
    task = build_task(config_of(mixed, rectangular="train", data={"val": 0.2}))
    with contextlib.closing(task.feed(decide_runtime(task.config))) as feed:
        whole = {int(index): (picture, boxes) for batch in feed.eval_batches("train") for index, picture, boxes in
                 zip(batch.indices, batch.inputs, batch.targets.boxes_xyxy, strict=True)}  # fmt: skip
        batches = [batch for _, batch in zip(range(feed.steps_per_epoch), feed.train_batches(0), strict=False)]
    sizes = task.annotated.splits["train"].sizes
    seen = [index for batch in batches for index in batch.indices.tolist()]
    assert len(seen) == len({*seen}) == feed.steps_per_epoch * 4
    for batch in batches:
        size = tuple(batch.inputs.shape[2:])
        assert size == tuple(rectangles(sizes[batch.indices.numpy()], (SIDE, SIDE)).max(axis=0))
        top, left = begins((SIDE, SIDE), size)
        for index, picture, boxes, labels in zip(
            batch.indices.tolist(), batch.inputs, batch.targets.boxes_xyxy, batch.targets.labels, strict=True
        ):
            original, there = whole[index]
            assert torch.equal(picture, original[:, top : top + size[0], left : left + size[1]])
            moved = there - torch.tensor([left, top] * 2)
            assert torch.equal(boxes[labels > 0], moved[: int((labels > 0).sum())])
            bright = (picture[0] > 200).nonzero()
            assert boxes[0, [1, 0]].tolist() == pytest.approx(bright.amin(0).tolist(), abs=1.5)
    assert sum(batch.inputs.numel() for batch in batches) < 0.8 * len(seen) * 3 * SIDE * SIDE


def test_moves_keep_to_the_rectangle(mixed):
    moves = [{"name": "photometric"}, {"name": "affine"}, {"name": "mosaic", "p": 1.0}, {"name": "mixup", "p": 1.0}]
    task = build_task(config_of(mixed, rectangular="train", augment=moves))
    with contextlib.closing(task.feed(decide_runtime(task.config))) as feed:
        batches = [batch for _, batch in zip(range(6), feed.train_batches(0), strict=False)]
        resumed = [batch for _, batch in zip(range(2), feed.train_batches(4), strict=False)]
    assert len({batch.inputs.shape for batch in batches}) > 1
    for batch in batches:
        height, width = batch.inputs.shape[2:]
        boxes = batch.targets.boxes_xyxy[batch.targets.valid]
        assert len(boxes)
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height] * 2)).all()
    for ours, theirs in zip(batches[4:], resumed, strict=True):
        assert all(map(torch.equal, ours.tensors(), theirs.tensors()))


def test_each_part_of_a_step_has_the_size_of_the_whole(mixed):
    """So that several processes, or parts one after the other, take the step of one."""
    task = build_task(config_of(mixed, rectangular="train", augment=[{"name": "photometric"}]))
    with contextlib.closing(task.feed(decide_runtime(task.config))) as feed:
        whole = [batch for _, batch in zip(range(6), feed.train_batches(0), strict=False)]
        for taken in (slice(0, 1), slice(1, 2)):
            feed.cut(2, taken)
            halves = [batch for _, batch in zip(range(6), feed.train_batches(0), strict=False)]
            for half, batch in zip(halves, whole, strict=True):
                rows = slice(2 * taken.start, 2 * taken.stop)
                assert torch.equal(half.inputs, batch.inputs[rows])
                assert torch.equal(half.targets.boxes_xyxy, batch.targets.boxes_xyxy[rows])


@pytest.mark.skipif(not LONG, reason="two processes and one: make soak")
def test_several_processes_learn_from_the_same_rectangles(mixed):
    """They come to the weights of one process that takes each step in two parts, to the bit."""
    train = {"epochs": 2, "batch_size": 4, "device": "cpu", "threads": 1, "precision": "fp32", "sync_batch_norm": False}
    config, halves = (
        config_of(mixed, rectangular="train", train=train | more, augment=[{"name": "photometric"}])
        for more in ({}, {"accumulate": 2})
    )
    expected, loss = trained(ALONE, halves, detection, 4)
    for weights, theirs in on_ranks(2, trained, config, detection, 4):
        assert theirs == loss
        learned = [name for name in expected if "running" not in name and "num_batches" not in name]
        assert all(torch.equal(expected[name], weights[name]) for name in learned)  # statistics are averaged


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"rectangular": "train", "augment": [{"name": "random_tile"}]}, "random_tile shows tiles"),
        ({"rectangular": "train", "multi_scale": {"least": 64, "most": 128}}, "both set the size of a step"),
        ({"data": {"fit": "stretch"}}, "fit: stretch has none"),
        ({"model": {"name": "ssd"}}, "default boxes are shares of the whole input: ssd cannot"),
        ({"model": {"name": "fast_rcnn"}}, "regions are proposed in the whole input: fast_rcnn cannot"),
    ],
)
def test_what_has_no_rectangles_is_refused(mixed, sections, message):
    with pytest.raises(ValueError, match=message):
        config_of(mixed, **sections)


def test_it_is_said_before_training(mixed):
    assert dict(build_task(config_of(mixed)).describe())["measured"] == "without grey bars, at 4 shapes, 32x96 to 96x96"
    lines = build_task(config_of(mixed, rectangular="train", train={"epochs": 1, "compile": True})).describe()
    assert ("trained", "without grey bars, at 4 shapes, 32x96 to 96x96") in lines
    assert any("compiled again for other sizes" in line for _, line in lines)
    assert "measured" not in dict(build_task(config_of(mixed, rectangular=False)).describe())
