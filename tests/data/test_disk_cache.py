"""The cache on disk: what it holds is what the files hold, or it is not used."""

import os
import time
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from mlcli.data import disk_cache
from mlcli.data.augmentations import HorizontalFlip, RandomCrop
from mlcli.data.decode import Preparation
from mlcli.data.disk_cache import READ_BATCH, DiskCache, default_folder
from mlcli.data.feed import SampleFeed
from mlcli.data.info import DataInfo
from mlcli.data.source import Arrays, ImageFilesSamples, Source
from mlcli.engine.settings import Loader, Train
from mlcli.errors import ConfigError, DataError, OutputError

NUM = READ_BATCH + 9  # more than is written at once
INFO = DataInfo("image", (3, 8, 8), ("a", "b"), "label", (0.5,) * 3, (0.2,) * 3)


@pytest.fixture
def files(tmp_path) -> ImageFilesSamples:
    root = tmp_path / "images"
    root.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (NUM, 10, 12, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(root / f"{number}.png")
    paths = np.array([f"{number}.png".encode() for number in range(NUM)])
    return ImageFilesSamples(str(root), paths, torch.arange(NUM) % 2, Preparation((8, 8)))


@pytest.fixture
def cache(tmp_path):
    """The cache of some files; a new object each time, as a new run has."""

    def opened(files: ImageFilesSamples) -> DiskCache:
        shape = (len(files), files.preparation.channels, *files.preparation.image_size)
        return DiskCache(tmp_path / "cache", files, shape)

    return opened


def filled(cache: DiskCache, files: ImageFilesSamples) -> torch.Tensor:
    return cache.fill(files.read(rows) for rows in np.split(np.arange(len(files)), [READ_BATCH]))


# --- the file --------------------------------------------------------------------------------------------------------


def test_what_was_written_is_found_again(cache, files):
    first = cache(files)
    assert first.state == "none"
    assert first.open() is None
    expected = files.read(np.arange(NUM))
    assert torch.equal(filled(first, files), expected)
    again = cache(files)
    assert again.state == "found"
    assert torch.equal(again.open(), expected)


def test_writing_to_the_samples_leaves_the_file_as_it_is(cache, files):
    filled(cache(files), files).zero_()
    cache(files).open().zero_()
    assert torch.equal(cache(files).open(), files.read(np.arange(NUM)))


def changed_pixels(files):
    Image.new("RGB", (12, 10)).save(f"{files.root}/3.png")
    return files


def touched(files):
    os.utime(f"{files.root}/3.png", ns=(0, 12345))
    return files


def removed(files):
    os.remove(f"{files.root}/3.png")
    return files


def one_more(files):
    return replace(files, paths=np.append(files.paths, b"0.png"), targets=torch.zeros(NUM + 1))


def one_less(files):
    return replace(files, paths=files.paths[:-1], targets=files.targets[:-1])


def other_order(files):
    return replace(files, paths=files.paths[::-1].copy())


def prepared_otherwise(files):
    return replace(files, preparation=Preparation((8, 8), "stretch"))


def grey(files):
    return replace(files, preparation=Preparation((8, 8), channels=1))


def checked_for_size(files):
    return replace(files, same_size=True)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (changed_pixels, "stale"),
        (touched, "stale"),
        (removed, "stale"),
        (one_more, "none"),
        (one_less, "none"),
        (other_order, "none"),
        (prepared_otherwise, "none"),
        (grey, "none"),
        (checked_for_size, "none"),
    ],
)
def test_another_data_set_finds_nothing(cache, files, change, state):
    filled(cache(files), files)
    other = cache(change(files))
    assert other.state == state
    assert other.open() is None


def test_another_decoder_finds_nothing(cache, files, monkeypatch):
    filled(cache(files), files)
    monkeypatch.setattr(disk_cache, "version", lambda name: "0.1")
    assert cache(files).state == "stale"


@pytest.mark.parametrize("at", [0, 5000, READ_BATCH * 192 + 7, NUM * 192 - 1], ids=str)
def test_a_flipped_bit_is_noticed(cache, files, at):
    filled(cache(files), files)
    with open(cache(files).path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 4]))
    assert cache(files).state == "found"
    assert cache(files).open() is None


@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "facts"])
def test_other_damage_is_noticed(cache, files, damage):
    filled(cache(files), files)
    path = cache(files).path
    content = path.read_bytes()
    path.write_bytes(
        {"cut": content[:-1], "longer": content + b" ", "empty": b"", "facts": content[:-4096] + bytes(4096)}[damage]
    )
    assert cache(files).state == "stale"
    assert cache(files).open() is None
    filled(cache(files), files)
    assert cache(files).open() is not None


def test_a_file_that_cannot_be_read_leaves_no_cache(cache, files):
    removed(files)
    with pytest.raises(DataError, match="no such file"):
        filled(cache(files), files)
    assert [path.name for path in cache(files).path.parent.iterdir()] == [".mlcli"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path, files):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file"):
        filled(DiskCache(tmp_path / "file" / "cache", files, (NUM, 3, 8, 8)), files)


def test_caches_that_nobody_opens_are_deleted(cache, files):
    filled(cache(files), files)
    forgotten, used = cache(files).path, cache(one_less(files))
    filled(used, one_less(files))
    for path in (forgotten, used.path):
        os.utime(path, (0, time.time() - 31 * 86_400))
    cache(one_less(files)).open()
    stranger = forgotten.with_name("notes.txt")
    stranger.touch()
    os.utime(stranger, (0, 0))
    filled(cache(grey(files)), grey(files))
    assert not forgotten.exists()
    assert used.path.exists()
    assert stranger.exists()


def test_parts_of_a_cache_larger_than_memory_are_checked(cache, files, monkeypatch):
    filled(cache(files), files)
    monkeypatch.setattr(disk_cache, "available_memory_bytes", lambda: 2 * READ_BATCH * 192)
    path = cache(files).path
    content = bytearray(path.read_bytes())
    content[-1 - 4096 - 8] ^= 1  # a pixel of the last part, which is left out
    path.write_bytes(content)
    assert cache(files).open() is not None
    content[0] ^= 1
    path.write_bytes(content)
    assert cache(files).open() is None


def test_the_users_folder_for_caches(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "mlcli" / "samples"


# --- in the feed -----------------------------------------------------------------------------------------------------


@pytest.fixture
def feed(tmp_path):
    feeds = []

    def make(files, cache: str = "disk", workers=1) -> SampleFeed:
        feeds.append(
            SampleFeed(
                Source(INFO, {"train": files, "val": files}),
                (RandomCrop(name="random_crop", padding=2), HorizontalFlip(name="horizontal_flip")),
                train=Train(batch_size=16),
                loader=Loader(cache=cache, cache_folder=tmp_path / "cache", workers=workers),
                device=torch.device("cpu"),
            )
        )
        return feeds[-1]

    yield make
    for made in feeds:
        made.close()


def batches(feed: SampleFeed) -> list[torch.Tensor]:
    train = list(islice(feed.train_batches(0), 7))
    return [batch.inputs for batch in [*train, *feed.eval_batches("val")]]


def equal(ones, others) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_batches_from_files_memory_and_disk(feed, files, workers):
    expected = batches(feed(files, "none", 0))
    assert equal(batches(feed(files, "ram", workers)), expected)
    assert equal(batches(feed(files, "disk", workers)), expected)  # being filled
    assert equal(batches(feed(files, "disk", workers)), expected)  # found


class NeverRead(ImageFilesSamples):
    def read(self, indices):
        raise AssertionError("a file was read")


def test_a_second_run_reads_no_file(feed, files):
    expected = batches(feed(files))
    same = NeverRead(files.root, files.paths, files.targets, files.preparation)
    assert equal(batches(feed(same)), expected)


def test_a_stale_or_damaged_cache_is_replaced(feed, files, cache):
    batches(feed(files))
    changed = changed_pixels(files)
    assert equal(batches(feed(changed)), batches(feed(changed, "none")))
    with open(cache(files).path, "r+b") as file:
        file.write(b"damage")
    assert equal(batches(feed(changed)), batches(feed(changed, "none")))
    assert cache(files).open() is not None


def test_reasons_are_given(feed, files, tmp_path):
    folder = tmp_path / "cache"
    assert feed(files).choices[0] == ("cache", "disk", f"as asked; 28 kB in {folder}, to be written")
    batches(feed(files))
    cache, workers, *_ = feed(files, workers="auto").choices
    assert cache == ("cache", "disk", f"as asked; 28 kB in {folder}, written by an earlier run")
    assert workers.why.endswith("should the cache on disk turn out to be damaged")
    touched(files)
    assert feed(files).choices[0].why.endswith("what an earlier run wrote there is stale: to be written")
    arrays = Arrays(files.read(np.arange(NUM)), files.targets, "noise")
    assert feed(arrays).choices[0] == ("cache", "ram", "the data are in memory as they are")


def test_too_little_room_is_said_beforehand(files, tmp_path):
    huge = replace(INFO, input_shape=(3, 10**7, 10**7))
    source = Source(huge, {"train": files})
    with pytest.raises(ConfigError, match=r"decoded images take .* are free in") as error:
        SampleFeed(
            source,
            (),
            train=Train(batch_size=2),
            loader=Loader(cache="disk", cache_folder=tmp_path / "not" / "yet"),
            device=torch.device("cpu"),
        )
    assert "loader.cache_folder" in error.value.fix
