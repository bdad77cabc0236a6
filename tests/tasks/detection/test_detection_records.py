"""Records and the feed: originals and inputs agree to the pixel; batches hold what they name, however they are read."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from mlcli.data.augmentations import HorizontalFlip
from mlcli.data.decode import Preparation
from mlcli.data.source import ImageFilesSamples
from mlcli.engine.settings import Loader, Train
from mlcli.tasks.detection.data import augmentations as c
from mlcli.tasks.detection.data.build import build_source
from mlcli.tasks.detection.data.config import BoxCsv, Scenes, Voc
from mlcli.tasks.detection.data.feed import DetectionFeed, InputMasks, TargetTable
from mlcli.tasks.detection.data.records import DetectionSource, Records, rarest_labels
from mlcli.tasks.detection.masks import decode, encode_rle
from tests.tasks.detection import sheets
from tests.tasks.detection.published import records_of

CPU = torch.device("cpu")
AUGMENT = (
    c.Photometric(name="photometric"),
    c.Mosaic(name="mosaic"),
    c.BoxAffine(name="affine"),
    HorizontalFlip(name="horizontal_flip"),
    c.BoxMixup(name="mixup", p=0.5),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    sheets.voc_folder(root, count=12)
    return root


def build(folder, **options):
    return build_source(Voc(**({"name": "voc", "root": folder, "image_size": 64, "val": 0.25} | options)))


@pytest.fixture
def feed():
    feeds = []

    def make(source, augment=(), *, masks=False, most=None, cache="ram", workers=0, **options):
        train, loader = Train(**({"batch_size": 4} | options)), Loader(cache=cache, workers=workers)
        made = DetectionFeed(
            source, augment, 0.3, train=train, loader=loader, device=CPU, masks=masks, max_objects=most
        )
        feeds.append(made)
        return made

    yield make
    for made in feeds:
        made.close()


# --- original pixels and input pixels --------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["pad", "stretch"])
@pytest.mark.parametrize("size", [(301, 200), (97, 640), (128, 64), (64, 128)], ids=str)
def test_boxes_go_where_decoding_puts_the_pixels(tmp_path, fit, size):
    width, height = size
    box = np.array([0.2 * width, 0.3 * height, 0.7 * width, 0.8 * height]).round()
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    records = one_picture(str(tmp_path), "a.png", size, box, Preparation((96, 128), fit, 3))
    placed = records.to_input(torch.from_numpy(records.boxes_xyxy), torch.tensor([0]))
    bright = records.read(np.array([0]))[0, 0] > 200
    rows, columns = bright.any(1).nonzero().flatten(), bright.any(0).nonzero().flatten()
    seen = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    assert (placed[0] - seen).abs().max() <= 1.0
    assert torch.allclose(records.to_original(placed, torch.tensor([0]))[0], torch.from_numpy(box).float(), atol=1e-3)


def test_to_original_is_the_inverse_for_batches_of_any_shape(folder):
    records = build(folder).splits["train"]
    indices = torch.tensor([3, 0, 3])
    boxes = torch.rand(3, 5, 2, 4) * 64
    assert torch.allclose(records.to_input(records.to_original(boxes, indices), indices), boxes, atol=1e-4)
    alone = records.to_input(boxes[1, 2], torch.tensor([0, 0]))
    assert torch.allclose(records.to_input(boxes, indices)[1, 2], alone)


def test_parts_of_records(folder):
    records = build(folder).splits["train"]
    chosen = np.array([4, 1, 2])
    part = records.only(chosen)
    for index, original in enumerate(chosen.tolist()):
        assert part.name(index) == records.name(original)
        assert np.array_equal(part.boxes_of(index), records.boxes_of(original))
        assert np.array_equal(part.labels_of(index), records.labels_of(original))
        assert part.ids[index] == records.ids[original]
        assert part.original(index).size == tuple(part.sizes[index])
    assert np.array_equal(np.unique(part.picture_of), np.flatnonzero(part.counts))


def test_rarest_label_of_each_picture():
    labels = np.array([1, 1, 2, 1, 3, 1, 2])
    offsets = np.array([0, 2, 2, 5, 7])
    assert rarest_labels(labels, offsets).tolist() == [1, 0, 3, 2]
    assert rarest_labels(labels[:0], np.zeros(3, dtype=np.int64)).tolist() == [0, 0]


# --- masks -----------------------------------------------------------------------------------------------------------


def test_codes_are_cocos():
    from faster_coco_eval.core import mask as coco

    random = np.random.default_rng(0)
    for shape in ((7, 5), (1, 1), (12, 9)):
        for share in (0.0, 0.3, 1.0):
            mask = random.random(shape) < share
            code = encode_rle(mask)
            compressed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
            assert np.array_equal(decode(code, *shape), mask)
            assert np.array_equal(decode(compressed, *shape), mask)
            assert coco.frPyObjects(code, *shape)["counts"] == compressed["counts"]


@pytest.mark.parametrize("kind", ["polygon", "code", "box"])
def test_masks_lie_where_the_pixels_lie(tmp_path, kind):
    """A mask read back is what is bright in the picture that the model sees."""
    size, box = (90, 60), np.array([10, 20, 70, 50])
    pixels = np.zeros((60, 90, 3), dtype=np.uint8)
    pixels[20:50, 10:70] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    records = one_picture(str(tmp_path), "a.png", size, box, Preparation((64, 64), "pad", 3))
    segmentation = {
        "polygon": [[10.0, 20.0, 70.0, 20.0, 70.0, 50.0, 10.0, 50.0]],
        "code": encode_rle(pixels[..., 0] > 0),
        "box": None,
    }[kind]
    records = replace(records, segmentations=[segmentation])
    masks = InputMasks(records, np.array([0]))(torch.tensor([0]), 3)
    assert masks.shape == (1, 3, 64, 64)
    assert not masks[0, 1:].any()
    bright = records.read(np.array([0]))[0, 0] > 160
    assert (masks[0, 0].bool() ^ bright).sum() <= 2 * (43 + 22), "they differ at most by the edge"


# --- batches ---------------------------------------------------------------------------------------------------------


def test_batches_hold_the_objects_they_name(folder, feed):
    source = build(folder)
    records = source.splits["train"]
    for batch in islice(feed(source).train_batches(0), 4):
        for b, index in enumerate(batch.indices.tolist()):
            there = batch.targets.valid[b]
            expected = records.to_input(torch.from_numpy(records.boxes_of(index))[None], torch.tensor([index]))[0]
            order = batch.targets.boxes_xyxy[b][there].sum(1).argsort()
            assert torch.allclose(batch.targets.boxes_xyxy[b][there][order], expected[expected.sum(1).argsort()])
            assert sorted(batch.targets.labels[b][there].tolist()) == sorted(records.labels_of(index).tolist())
            # What a class is painted with is what is seen in the middle of its boxes.
            for box, label in zip(batch.targets.boxes_xyxy[b][there], batch.targets.labels[b][there], strict=True):
                x, y = ((box[:2] + box[2:]) / 2).int().tolist()
                assert abs(int(batch.inputs[b, 0, y, x]) - 100 * int(label)) < 5


def test_evaluation_shows_every_picture_once_without_changes(folder, feed):
    source = build(folder)
    batches = list(feed(source, AUGMENT, batch_size=1).eval_batches("val"))
    assert torch.cat([batch.indices for batch in batches]).tolist() == [0, 1, 2]
    records = source.splits["val"]
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), records.read(np.arange(3)))
    table = TargetTable(records, CPU, masks=False)(torch.arange(3))
    assert torch.equal(torch.cat([batch.targets.boxes_xyxy for batch in batches]), table.boxes_xyxy)


@pytest.mark.parametrize("how", [{"cache": "none", "workers": 0}, {"cache": "none", "workers": 2}, {"cache": "device"}])
def test_any_way_of_reading_gives_the_same_bits(folder, feed, how):
    source = build(folder)
    ours = list(islice(feed(source, AUGMENT, accumulate=2).train_batches(0), 10))
    others = list(islice(feed(source, AUGMENT, accumulate=2, **how).train_batches(0), 10))
    same_batches(ours, others)


def test_a_resumed_training_goes_on_as_if_nothing_had_been(folder, feed):
    source = build(folder)
    options = {"epochs": 4, "batch_size": 4}
    whole = list(islice(feed(source, AUGMENT, **options).train_batches(0), 8))
    for start in (1, 3, 5):
        same_batches(list(islice(feed(source, AUGMENT, **options).train_batches(start), 8 - start)), whole[start:])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_in_parts_has_the_pictures_of_the_whole_one(folder, feed, workers):
    """Mosaic and mixup too put together pictures of the whole step."""
    source = build(folder)
    options = {"batch_size": 4, "cache": "none", "workers": workers}
    whole = list(islice(feed(source, AUGMENT, **options).train_batches(1), 2))
    parts = list(islice(feed(source, AUGMENT, accumulate=3, **options).train_batches(1), 6))
    assert [len(part) for part in parts] == [1, 1, 2, 1, 1, 2]
    for step, batch in enumerate(whole):
        own = parts[3 * step : 3 * step + 3]
        assert torch.equal(torch.cat([part.inputs for part in own]), batch.inputs)
        assert torch.equal(torch.cat([part.targets.boxes_xyxy for part in own]), batch.targets.boxes_xyxy)
        assert torch.equal(torch.cat([part.targets.keys for part in own]), batch.targets.keys)


def test_crowds_and_difficult_objects_are_not_learned_from(folder):
    records = build(folder).splits["train"]
    marked = np.arange(len(records.labels)) % 3 == 0
    crowd, difficult = marked & (records.labels == 1), marked & (records.labels == 2)
    table = TargetTable(replace(records, crowd=crowd, difficult=difficult), CPU, masks=False)
    assert int(table.counts.sum()) == (~marked).sum()
    targets = table(torch.arange(len(records)))
    for index in range(len(records)):
        left = ~marked[records.objects_of(index)]
        assert targets.labels[index][targets.valid[index]].tolist() == records.labels_of(index)[left].tolist()


def test_a_split_without_any_object(folder):
    records = build(folder).splits["train"]
    empty = records.only(np.flatnonzero(records.counts == 0))
    targets = TargetTable(empty, CPU, masks=True)(torch.tensor([0, 1]))
    assert not targets.valid.any()
    assert targets.boxes_xyxy.shape == (2, 1, 4)
    assert not targets.masks.any()


def test_most_objects(folder, feed):
    batch = next(feed(build(folder), most=2).train_batches(0))
    assert batch.targets.labels.shape == (4, 2)


def test_masks_of_scenes_fill_their_boxes(feed):
    source = build_source(Scenes(name="scenes", images=20))
    batch = next(feed(source, masks=True).train_batches(0))
    for b, r in batch.targets.valid.nonzero().tolist():
        left, top, right, bottom = batch.targets.boxes_xyxy[b, r].int().tolist()
        mask = batch.targets.masks[b, r]
        assert mask[top:bottom, left:right].sum() == mask.sum() > 0.15 * (right - left) * (bottom - top)


def test_proposals_come_in_input_pixels(folder, feed):
    source = build(folder)
    records = source.splits["train"]
    proposals = np.zeros((len(records), 3, 4), dtype=np.float32)
    proposals[:, 0] = [0, 0, 10, 10]
    told = replace(source, splits=source.splits | {"train": replace(records, proposals_xyxy=proposals)})
    batch = next(feed(told).train_batches(0))
    expected = records.to_input(torch.from_numpy(proposals)[batch.indices], batch.indices)
    assert torch.allclose(batch.targets.proposals_xyxy[:, 0], expected[:, 0])
    assert not batch.targets.proposals_xyxy[:, 1:].any()


def test_a_balanced_sampler_draws_rare_classes_as_often(tmp_path, feed):
    names = sheets.draw(tmp_path, count=20)
    rows = [f"{name},{'rare' if number == 0 else 'common'},1,1,20,20" for number, name in enumerate(names)]
    (tmp_path / "b.csv").write_text("\n".join(["filename,class,xmin,ymin,xmax,ymax", *rows]) + "\n")
    source = build_source(BoxCsv(name="box_csv", file=tmp_path / "b.csv", image_size=32, val=0))
    made = DetectionFeed(
        source, (), 0.3, train=Train(batch_size=20), loader=Loader(sampler="balanced", workers=0), device=CPU
    )
    assert int((next(made.train_batches(0)).indices == 0).sum()) == 10


def same_batches(ours, others):
    for one, other in zip(ours, others, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets.boxes_xyxy, other.targets.boxes_xyxy)
        assert torch.equal(one.targets.labels, other.targets.labels)


def one_picture(root, name, size, box, preparation) -> Records:
    nothing = np.zeros(1, dtype=bool)
    return Records(
        images=ImageFilesSamples(root, np.array([name.encode()]), torch.zeros(1, dtype=torch.int64), preparation),
        preparation=preparation,
        ids=np.array([1]),
        sizes=np.array([size], dtype=np.int32),
        offsets=np.array([0, 1]),
        boxes_xyxy=np.array([box], dtype=np.float32),
        labels=np.array([1]),
        crowd=nothing,
        difficult=nothing,
        area=np.ones(1, dtype=np.float32),
    )


def test_pictures_of_rare_objects_are_repeated_by_all_they_hold():
    """By pictures, not by boxes, and without what does not count."""
    records = records_of(
        {
            "images": [{"id": n, "width": 32, "height": 32} for n in range(1, 9)],
            "categories": [{"id": 1, "name": "many"}, {"id": 2, "name": "few"}],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
                for n in range(1, 8)
            ]
            + [
                {"id": 10 + n, "image_id": 3, "category_id": 2, "bbox": [9, 9, 5 + n, 5], "area": 25, "iscrowd": 0}
                for n in range(20)
            ]
            + [{"id": 40, "image_id": 8, "category_id": 2, "bbox": [9, 9, 5, 5], "area": 25, "iscrowd": 1}],
        }
    )
    info = build_source(Scenes(name="scenes", images=20, image_size=32)).info
    source = DetectionSource(info, {"train": records})
    feed = DetectionFeed(
        source,
        (),
        0.3,
        train=Train(batch_size=4),
        loader=Loader(sampler="repeat_factor", repeat_below=0.5, workers=0, cache="none"),
        device=torch.device("cpu"),
    )
    why = "1 of 8 samples hold a class that is in less than 50 % of them, up to 2.0 times"
    assert feed.choices[-1] == ("sampler", "9 draws an epoch", why)
    assert feed.steps_per_epoch == 2
