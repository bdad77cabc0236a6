"""The feed: the same batches from memory, cache and files, with any number of workers, from any step on."""

import shutil
from itertools import islice

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from mlcli.data import augmentations as c
from mlcli.data.augment.geometry import sample_crop_boxes
from mlcli.data.decode import Preparation
from mlcli.data.disk_cache import READ_BATCH
from mlcli.data.feed import SampleFeed
from mlcli.data.info import DataInfo
from mlcli.data.randomness import KeyedRandom, sample_keys
from mlcli.data.source import Arrays, ImageFilesSamples, Source
from mlcli.engine.settings import Loader, Train
from mlcli.errors import ConfigError, DataError

CPU = torch.device("cpu")
NUM_TRAIN, NUM_VAL = 22, 11
INFO = DataInfo("image", (3, 8, 8), ("a", "b", "c"), "label", (0.5,) * 3, (0.2,) * 3)
AUGMENT = (
    c.RandomCrop(name="random_crop", padding=2),
    c.HorizontalFlip(name="horizontal_flip"),
    c.ColorJitter(name="color_jitter"),
    c.Mixup(name="mixup"),
)
RESIZED = (c.RandomResizedCrop(name="random_resized_crop"), *AUGMENT[1:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of 16 x 12 noise, written without loss."""
    root = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for number in range(NUM_TRAIN + NUM_VAL):
        Image.fromarray(noise.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(root / f"{number}.png")
    return root


def split(folder, start: int, stop: int) -> ImageFilesSamples:
    paths = np.array([f"{number}.png".encode() for number in range(start, stop)])
    return ImageFilesSamples(str(folder), paths, torch.arange(start, stop) % 3, Preparation((8, 8)))


def files(folder) -> Source:
    return Source(INFO, {"train": split(folder, 0, NUM_TRAIN), "val": split(folder, NUM_TRAIN, NUM_TRAIN + NUM_VAL)})


def held(folder, name: str) -> Arrays:
    samples = files(folder).splits[name]
    return Arrays(samples.read(np.arange(len(samples))), samples.targets, "noise")


def arrays(folder) -> Source:
    return Source(INFO, {"train": held(folder, "train"), "val": held(folder, "val")})


@pytest.fixture
def feed(folder):
    """Makes feeds and closes them: feed("files" or "arrays", augment, workers=, cache=, sampler=, and Train fields)."""
    feeds = []

    def make(kind: str, augment=AUGMENT, *, source=None, timeout=60.0, **options) -> SampleFeed:
        loader = Loader(**{key: options.pop(key) for key in ("workers", "cache", "sampler") if key in options})
        source = source or {"files": files, "arrays": arrays}[kind](folder)
        train = Train(**({"batch_size": 5} | options))
        feeds.append(SampleFeed(source, augment, train=train, loader=loader, device=CPU))
        return feeds[-1]

    yield make
    for made in feeds:
        made.close()


def equal(ones, others) -> bool:
    return all(
        torch.equal(one.inputs, other.inputs)
        and torch.equal(one.targets, other.targets)
        and torch.equal(one.indices, other.indices)
        # Lists, so that a batch whose memory is used again shows.
        for one, other in zip(list(ones), list(others), strict=True)
    )


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_batches_hold_the_samples_they_name(feed, folder, kind):
    batches = list(islice(feed(kind, (), cache="none", workers=0).train_batches(0), 4))
    everything = held(folder, "train")
    for batch in batches:
        assert torch.equal(batch.inputs, everything.inputs[batch.indices])
        assert torch.equal(batch.targets, everything.targets[batch.indices])
        assert batch.inputs.dtype == torch.uint8
        assert batch.targets.dtype == batch.indices.dtype == torch.int64
    assert len(torch.cat([batch.indices for batch in batches]).unique()) == 20


@pytest.mark.parametrize("augment", [AUGMENT, RESIZED], ids=["crop", "resized crop from the originals"])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_same_bits_for_any_number_of_workers(feed, augment, workers):
    options = {"cache": "none", "accumulate": 2}
    here = islice(feed("files", augment, workers=0, **options).train_batches(0), 18)
    there = islice(feed("files", augment, workers=workers, **options).train_batches(0), 18)
    assert equal(here, there)


@pytest.mark.parametrize("workers", [0, 2])
def test_resized_crops_are_cut_once_and_from_the_originals(feed, folder, workers):
    batch = next(feed("files", RESIZED[:1], cache="none", workers=workers).train_batches(0))
    random = KeyedRandom(sample_keys(0, 0, batch.indices))
    boxes = sample_crop_boxes(random, 16 / 12)
    expected = split(folder, 0, NUM_TRAIN).read_crops(batch.indices.numpy(), boxes.numpy())
    assert torch.equal(batch.inputs, expected)
    held = next(feed("files", RESIZED[:1], cache="ram", workers=workers).train_batches(0))
    assert held.inputs.dtype == torch.float32
    assert torch.equal(held.indices, batch.indices)


@pytest.mark.parametrize("options", [{"cache": "none", "workers": 2}, {"cache": "ram"}, {"cache": "device"}], ids=str)
def test_same_bits_from_files_cache_and_memory(feed, options):
    reference = feed("arrays")
    other = feed("files", **options)
    assert equal(islice(reference.train_batches(0), 9), islice(other.train_batches(0), 9))
    assert equal(reference.eval_batches("val"), other.eval_batches("val"))


@pytest.mark.parametrize("workers", [0, 2])
def test_splits_are_evaluated_by_the_same_workers_while_training_goes_on(feed, folder, workers):
    before, fed, source = len(psutil.Process().children()), feed("files", cache="none", workers=workers), arrays(folder)
    training = fed.train_batches(0)
    next(training)
    for name, samples in (("val", None), ("train", 7), ("val", 3), ("train", None)):
        next(fed.eval_batches(name))  # a round that is not taken to its end
        batches = list(fed.eval_batches(name, samples=samples))
        indices = torch.cat([batch.indices for batch in batches])
        assert len(indices) == (samples or len(source.splits[name]))
        assert torch.equal(torch.cat([batch.inputs for batch in batches]), source.splits[name].inputs[indices])
        assert torch.equal(torch.cat([batch.targets for batch in batches]), source.splits[name].targets[indices])
        assert len(psutil.Process().children()) - before == 2 * workers
    assert equal([next(training)], islice(feed("arrays").train_batches(0), 1, 2))


def test_a_damaged_file_is_named_in_whichever_split(feed, folder, tmp_path):
    for name in ("train", "val"):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / ("3.png" if name == "train" else "30.png")).write_bytes(b"")
        fed = feed("files", source=files(tmp_path / name), cache="none", workers=1)
        with pytest.raises(DataError, match=r"cannot|empty") as raised:
            [*fed.eval_batches("val"), *fed.eval_batches("train")]
        assert raised.value.where.endswith("/3.png" if name == "train" else "/30.png")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_of_many_files_holds_each_at_its_place(feed, folder, workers):
    order = np.random.default_rng(0).integers(0, NUM_TRAIN, 3 * READ_BATCH + 5)
    few = split(folder, 0, NUM_TRAIN)
    many = ImageFilesSamples(few.root, few.paths[order], few.targets[order], few.preparation)
    fed = feed("files", (), source=Source(INFO, {"train": many}), cache="ram", workers=workers)
    held = torch.cat([batch.inputs for batch in fed.eval_batches("train")])
    assert torch.equal(held, few.read(order))


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
@pytest.mark.parametrize("start", [2, 4, 6], ids=["mid-epoch", "epoch", "second epoch"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("arrays", {}), ("files", {"cache": "none", "workers": 2}), ("files", {"cache": "ram", "workers": 0})],
    ids=["arrays", "stream", "cache"],
)
def test_resuming_equals_going_on(feed, kind, options, start, sampler):
    options = options | {"sampler": sampler, "accumulate": 2}
    whole = islice(feed(kind, **options).train_batches(0), 2 * start, 2 * start + 6)
    resumed = islice(feed(kind, **options).train_batches(start), 6)
    assert equal(whole, resumed)


def test_evaluation_in_between_changes_nothing(feed):
    options = {"cache": "none", "workers": 2}
    alone = list(islice(feed("files", **options).train_batches(0), 8))
    disturbed = feed("files", **options)
    batches, seen = disturbed.train_batches(0), []
    for number in range(8):
        seen.append(next(batches))
        evaluation = disturbed.eval_batches("train" if number % 2 else "val")
        assert len(list(islice(evaluation, None if number < 6 else 1))) > 0  # the last are given up half-way
    assert equal(alone, seen)


def test_augmentation_does_not_depend_on_the_cut_into_parts(feed):
    whole = next(feed("arrays", AUGMENT[:3], batch_size=10).train_batches(0))
    parts = list(islice(feed("arrays", AUGMENT[:3], batch_size=10, accumulate=3).train_batches(0), 3))
    torch.testing.assert_close(torch.cat([part.inputs for part in parts]), whole.inputs, rtol=0, atol=1e-3)
    assert [len(part) for part in parts] == [3, 3, 4]


def test_seeds_and_epochs_differ(feed):
    fed = [feed("arrays", AUGMENT[:3], batch_size=22, seed=seed) for seed in (0, 1)]
    batches = [*islice(fed[0].train_batches(0), 2), next(fed[1].train_batches(0))]
    assert len({tuple(batch.indices.tolist()) for batch in batches}) == 3
    by_sample = [batch.inputs[batch.indices.argsort()] for batch in batches]
    for other in by_sample[1:]:
        assert (by_sample[0] != other).flatten(1).any(1).all()


def test_augmentation_draws_anew_for_each_sample_and_mixes_labels(feed):
    batch = next(feed("arrays", batch_size=22).train_batches(0))
    assert batch.inputs.dtype == torch.float32
    assert batch.targets.shape == (22, 3)


def test_features_and_numbers(feed):
    inputs, targets = torch.rand(30, 4), torch.rand(30)
    info = DataInfo("features", (4,), (), "price", (0.0,) * 4, (1.0,) * 4)
    numbers = Source(info, {"train": Arrays(inputs, targets, "table.csv")})
    batch = next(feed("", (), source=numbers, batch_size=8).train_batches(0))
    assert torch.equal(batch.inputs, inputs[batch.indices])
    assert torch.equal(batch.targets, targets[batch.indices])


# --- evaluation and names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [("arrays", {}), ("files", {"cache": "none", "workers": 0}), ("files", {"cache": "none", "workers": 2})],
    ids=["arrays", "here", "workers"],
)
def test_evaluation_is_complete_in_order_and_unchanged(feed, folder, kind, options):
    fed = feed(kind, RESIZED, batch_size=2, accumulate=2, **options)
    expected = held(folder, "val")
    for _ in range(2):
        batches = list(fed.eval_batches("val"))
        assert [len(batch) for batch in batches] == [4, 4, 3]
        assert torch.equal(torch.cat([batch.inputs for batch in batches]), expected.inputs)
        assert torch.equal(torch.cat([batch.targets for batch in batches]), expected.targets)
        assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(NUM_VAL))


def test_names(feed, folder):
    assert feed("files").names("val", torch.tensor([1, 0])) == [str(folder / "23.png"), str(folder / "22.png")]
    assert feed("arrays").names("train", torch.tensor([7])) == ["noise:7"]


# --- choices and errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "augment", "options", "cache", "why"),
    [
        ("arrays", (), {}, "ram", "the data are in memory as they are"),
        ("arrays", (), {"cache": "device"}, "device", "as asked"),
        ("files", AUGMENT, {}, "ram", "6.34 kB decoded, 0.0 % of the available memory"),
        ("files", RESIZED, {}, "none", "random_resized_crop cuts from the original pixels"),
        ("files", RESIZED, {"cache": "ram"}, "ram", "as asked; random_resized_crop cuts from the held images"),
        ("files", AUGMENT, {"cache": "none"}, "none", "as asked"),
    ],
)
def test_the_cache_is_chosen_with_a_reason(feed, kind, augment, options, cache, why):
    assert feed(kind, augment, **options).choices[0] == ("cache", cache, why)


@pytest.mark.parametrize(
    ("kind", "options", "workers", "why"),
    [
        ("arrays", {"workers": 4}, "0", "the data are in memory"),
        ("files", {"workers": 3}, "3", "as asked, until all files are read"),
        ("files", {"workers": 3, "cache": "none"}, "3", "as asked"),
    ],
)
def test_workers_are_chosen_with_a_reason(feed, kind, options, workers, why):
    assert feed(kind, **options).choices[1] == ("workers", workers, why)


def test_what_an_epoch_leaves_out_is_said(feed):
    batches = feed("arrays").choices[2]
    assert batches == ("batches", "4 an epoch", "of 5; the other 2 of the 22 samples wait, each epoch others")
    for options in ({"batch_size": 11}, {"sampler": "balanced"}):
        assert len(feed("arrays", **options).choices) == 2


def test_workers_are_no_more_than_the_cpus(feed):
    _, workers, _ = feed("files").choices[1]
    assert 1 <= int(workers) <= 8


@pytest.mark.parametrize("options", [{"cache": "none", "workers": 0}, {"cache": "none", "workers": 2}, {"workers": 2}])
def test_a_bad_file_is_named(feed, folder, tmp_path, options):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "17.png").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError) as error:
        list(islice(feed("files", source=files(tmp_path), **options).train_batches(0), 5))
    assert "17.png" in str(error.value)


def test_a_batch_larger_than_the_split_is_refused(feed):
    with pytest.raises(ConfigError, match="batch_size 64 is more than the 22 samples"):
        feed("arrays", batch_size=64)


def test_a_cache_larger_than_the_memory_is_refused(feed, folder):
    huge = DataInfo("image", (3, 10**6, 10**6), ("a", "b", "c"), "label", (0.5,) * 3, (0.2,) * 3)
    source = Source(huge, files(folder).splits)
    with pytest.raises(ConfigError, match="decoded images take") as error:
        feed("files", (), source=source, cache="ram")
    assert error.value.fix == "loader.cache=none"
    assert feed("files", (), source=source, workers=0).choices[0][1] == "none"
