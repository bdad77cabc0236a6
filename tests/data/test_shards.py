"""Shards: the index and its cache, splits and labels, what is refused, and the same bits as from a folder."""

import errno
import gzip
import io
import json
import os
import random
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from mlcli import files
from mlcli.data.check.examine import examine
from mlcli.data.config import Digits, ImageCsv, ImageFolder, ImageShards
from mlcli.data.source import ImageFilesSamples
from mlcli.data.sources import storage, tar_index
from mlcli.data.sources.build import build_source, list_images, new_data
from mlcli.data.sources.shard_writer import write_classes
from mlcli.data.sources.shards import read_shards, split_of_name
from mlcli.data.sources.storage import expanded
from mlcli.engine.ranks import Ranks
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.step import MicroBatches
from mlcli.errors import ConfigError, DataError, OutputError
from mlcli.experiment import Experiment
from tests.data.shard_files import CLASSES, labelled, picture, write_folder, write_tar
from tests.engine.many import on_ranks


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def shards(tmp_path):
    write_tar(tmp_path / "wds" / "train-000.tar", labelled(0, 10, "a/b/"))
    write_tar(tmp_path / "wds" / "train-001.tar", labelled(10, 6))
    write_tar(tmp_path / "wds" / "val-000.tar", labelled(16, 4))
    return tmp_path / "wds"


def errors(listing):
    return {finding.kind: finding for finding in listing.findings if finding.severity == "error"}


def source_of(root, **keys):
    return build_source(ImageShards(name="shards", root=root, test=0, **keys))


# --- what is read ----------------------------------------------------------------------------------------------------


def test_pictures_labels_and_splits_by_the_names_of_shards(shards):
    source = source_of(shards)
    train, val = source.splits["train"], source.splits["val"]
    assert source.info.class_names == CLASSES
    assert (len(train), len(val)) == (16, 4)
    assert train.targets.tolist() == [0, 1] * 8
    assert [train.relative(0), train.relative(15)] == ["train-000.tar/a/b/0000.png", "train-001.tar/0015.png"]
    assert train.name(0) == f"{shards}/train-000.tar/a/b/0000.png"
    from PIL import Image

    wanted = np.asarray(Image.open(io.BytesIO(picture(15)))).transpose(2, 0, 1)
    assert (train.read(np.array([15, 0]))[0].numpy() == wanted).all()


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-000.tar", "train"), ("val/7.tar", "val"), ("imagenet_validation-3.tar", "val"), ("a/b.tar", ""),
        ("x-test2017.tar", "test"), ("000.tar", ""),
    ],
)  # fmt: skip
def test_a_shard_is_called_after_a_split(name, split):
    assert split_of_name(name) == split


def test_without_splits_they_are_drawn_as_of_a_folder(tmp_path):
    write_tar(tmp_path / "s" / "0.tar", labelled(0, 40))
    source = build_source(ImageShards(name="shards", root=tmp_path / "s"))
    assert {split: len(part) for split, part in source.splits.items()} == {"train": 28, "val": 6, "test": 6}


def test_shards_are_named_by_patterns(shards):
    source = source_of(shards, shards={"train": "train-{000..001}.tar", "val": "v*.tar"})
    assert [len(part) for part in source.splits.values()] == [16, 4]
    with pytest.raises(DataError, match="no shard is called x"):
        source_of(shards, shards={"train": "x*"})
    listing = read_shards(shards, shards={"train": "train-000.tar", "val": "train-000.tar"})
    assert "named twice" in listing.findings[0].text


def test_patterns_are_expanded_within_bounds():
    assert expanded("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expanded("{a,b}-{0..1}") == ["a-0", "a-1", "b-0", "b-1"]
    for pattern in ("{5..1}", "{0..99999999}", "{0..999}{0..999}{0..999}"):
        with pytest.raises(DataError):
            expanded(pattern)


def test_numbers_name_the_classes_of_a_list(tmp_path):
    for number, split in enumerate(("train", "val")):
        members = labelled(8 * number, 8)
        for name in [name for name in members if name.endswith(".cls")]:
            members[name] = str(CLASSES.index(members[name].decode())).encode()
        write_tar(tmp_path / "s" / f"{split}.tar", members)
    assert source_of(tmp_path / "s").info.class_names == ("0", "1")
    (tmp_path / "s" / "classes.txt").write_text("zebra\nant\n")
    source = source_of(tmp_path / "s")
    assert source.info.class_names == ("zebra", "ant")
    assert source.splits["train"].targets.tolist()[:2] == [0, 1]
    (tmp_path / "s" / "classes.txt").write_text("zebra\n")
    assert errors(read_shards(tmp_path / "s"))["unknown-label"].places == ("1",)


@pytest.mark.parametrize(
    ("label", "content"),
    [("json.kind", b'{"kind": "%s", "x": 1}'), ("txt", b" %s\n"), (None, b'{"label": "%s"}')],
)
def test_labels_of_json_and_text(tmp_path, label, content):
    ending = "txt" if label == "txt" else "json"
    members = {}
    for number in range(8):
        members[f"{number}.JPG"] = picture(number, kind="jpeg")
        members[f"{number}.{ending}"] = content % CLASSES[number % 2].encode()
    write_tar(tmp_path / "s" / "train.tar", members)
    assert source_of(tmp_path / "s", val=0, label=label).info.class_names == CLASSES


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_of_every_dialect(tmp_path, format):
    folder = "/".join(["f" * 40] * (3 if format == tarfile.USTAR_FORMAT else 9)) + "/"
    folder += "" if format == tarfile.USTAR_FORMAT else "ü" * 60
    write_tar(tmp_path / "s" / "train.tar", labelled(0, 6, folder), format)
    train = source_of(tmp_path / "s", val=0).splits["train"]
    assert train.relative(5).endswith("f/" + "ü" * 60 * (format != tarfile.USTAR_FORMAT) + "0005.png")


# --- the index -------------------------------------------------------------------------------------------------------


def test_the_index_is_made_once_and_again_when_a_shard_changes(shards, monkeypatch):
    made = []
    monkeypatch.setattr(tar_index, "_made", lambda *a, made_anew=tar_index._made: made.append(1) or made_anew(*a))
    first = source_of(shards).splits["train"]
    again = source_of(shards).splits["train"]
    assert len(made) == 1
    assert (first.read(np.arange(16)) == again.read(np.arange(16))).all()
    write_tar(shards / "train-001.tar", labelled(100, 8))
    assert len(source_of(shards).splits["train"]) == 18
    assert len(made) == 2


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "pickle", "crafted"])
def test_a_damaged_or_foreign_index_is_made_anew(shards, tmp_path, how):
    wanted = source_of(shards).splits["train"].read(np.arange(16))
    (path,) = (tmp_path / "cache").rglob("*.index")
    content = path.read_bytes()
    if how == "flipped":
        content = content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]
    elif how == "crafted":  # right in every sum, and leads out of its shard
        facts = json.loads(content[12:][: int.from_bytes(content[4:12], "little")])["__metadata__"]["facts"]
        held = [storage.LocalStorage(shards).shard(name) for name in sorted(os.listdir(shards))]
        index = tar_index._load(path, facts, held)
        content = tar_index._to_bytes(replace(index, offsets=index.offsets + 10**9), facts)
    else:
        content = {"cut": content[:-7], "empty": b"", "pickle": b"\x80\x04cos\nsystem\n(S'false'\ntR."}[how]
    path.write_bytes(content)
    assert (source_of(shards).splits["train"].read(np.arange(16)) == wanted).all()
    assert path.read_bytes() != content


def test_an_index_that_cannot_be_kept_is_a_note(shards, tmp_path):
    (tmp_path / "cache").write_bytes(b"")
    assert any("made anew each time" in note for note in source_of(shards).notes)


def test_many_shards_take_a_bounded_number_of_descriptors(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "MOST_OPEN", 3)
    for number in range(9):
        write_tar(tmp_path / "s" / f"train-{number}.tar", labelled(number, 1) | labelled(number + 9, 1))
    train = source_of(tmp_path / "s", val=0).splits["train"]
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    order = np.random.default_rng(0).permutation(18)
    assert (train.read(order)[np.argsort(order)] == train.read(np.arange(18))).all()
    assert len(train.root.storage._open) == 3
    assert before == (len(os.listdir("/proc/self/fd")) if before else 0)


# --- what is refused -------------------------------------------------------------------------------------------------


def spoiled(content: bytes, how: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        third = tar.getmembers()[2].offset
    match how:
        case "cut":
            return content[:3000]
        case "cut at a member":
            return content.rstrip(b"\0")[: len(content.rstrip(b"\0")) // 512 * 512 + 512]
        case "checksum":
            return content[:third] + b"x" + content[third + 1 :]
        case "zeros":
            return content[:third] + bytes(1024) + content[third + 1024 :]
        case "two":
            return content + content
        case "huge":
            header = bytearray(content[:512])
            header[124:136] = b"\x80" + (2**70).to_bytes(11, "big")
            header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 256)
            return bytes(header) + content[512:]
        case "text":
            return b"no tar at all " * 100
    return b""


@pytest.mark.parametrize("how", ["cut", "cut at a member", "checksum", "zeros", "two", "huge", "text", "empty"])
def test_damaged_shards_are_refused_with_the_place(shards, how):
    path = shards / "train-001.tar"
    path.write_bytes(spoiled(path.read_bytes(), how))
    listing = read_shards(shards)
    assert errors(listing)["damaged-shard"].places[0].startswith("train-001.tar: ")
    with pytest.raises(DataError, match=r"train-001\.tar"):
        source_of(shards)


def test_compressed_shards_are_refused_with_the_command(shards):
    content = (shards / "train-001.tar").read_bytes()
    (shards / "train-001.tar").unlink()
    (shards / "train-001.tar.gz").write_bytes(gzip.compress(content))
    assert errors(read_shards(shards))["compressed-shard"].fix == "unpack each: gzip -d train-001.tar.gz"
    (shards / "train-001.tar.gz").rename(shards / "train-001.tar")
    found = errors(read_shards(shards))["compressed-shard"]
    assert found.fix == "unpack each: gzip -dc < train-001.tar > NEW.tar"


def special(tar: tarfile.TarFile, kind: bytes) -> None:
    info = tarfile.TarInfo("9999.png")
    info.type, info.linkname = kind, "/etc/passwd"
    tar.addfile(info)


@pytest.mark.parametrize(
    ("kind", "members"),
    [
        ("odd-member", tarfile.SYMTYPE), ("odd-member", tarfile.LNKTYPE), ("odd-member", tarfile.CHRTYPE),
        ("odd-member", tarfile.FIFOTYPE), ("damaged-shard", tarfile.GNUTYPE_SPARSE),
        ("odd-name", {"../x.png": b""}), ("odd-name", {"/x.png": b""}), ("odd-name", {"a\0b.png": b""}),
        ("odd-name", {"x" * 5000 + ".png": b""}),
        ("two-pictures", {"7.png": b"1", "7.jpg": b"2", "7.cls": b"cat"}),
        ("listed-twice", {"0001.png": b"1", "0001.cls": b"cat"}),
        ("no-label", {"7.png": b"1"}), ("bad-label", {"7.png": b"1", "7.cls": b""}),
        ("bad-label", {"7.png": b"1", "7.cls": b"x" * 5000}), ("bad-label", {"7.png": b"1", "7.cls": b"\xff\xfe"}),
    ],
)  # fmt: skip
def test_members_that_are_no_samples_are_refused_by_name(tmp_path, kind, members):
    path = write_tar(tmp_path / "s" / "train.tar", labelled(0, 8))
    if isinstance(members, bytes):
        with tarfile.open(path, "a") as tar:
            special(tar, members)
    else:
        with tarfile.open(path, "a", format=tarfile.PAX_FORMAT) as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                if "\0" in name:
                    info.pax_headers, info.name = {"path": name}, "b.png"
                tar.addfile(info, io.BytesIO(content))
    found = errors(read_shards(tmp_path / "s"))
    assert found[kind].places[0].startswith("train.tar: ")
    with pytest.raises(DataError):
        source_of(tmp_path / "s", val=0)


def test_samples_without_a_picture_and_other_members_are_told(tmp_path):
    members = labelled(0, 8) | {"README": b"x", "meta.json": b"{}", "._0001.png": b"x", "dir/.hidden": b""}
    write_tar(tmp_path / "s" / "train.tar", members)
    listing = read_shards(tmp_path / "s")
    assert not errors(listing)
    assert {finding.kind for finding in listing.findings} == {"no-picture", "other-members"}


def test_marks_of_direction_are_written_out(tmp_path, capsys):
    write_tar(tmp_path / "s" / "train.tar", {"a\u202ekcab.png": b"", **labelled(0, 8)})
    assert "\\u202e" in errors(read_shards(tmp_path / "s"))["no-label"].places[0]


@pytest.mark.parametrize("how", ["written over", "replaced", "cut"])
def test_a_shard_that_changes_while_it_is_read(shards, how):
    train = source_of(shards).splits["train"]
    train.read(np.arange(16))
    path = shards / "train-001.tar"
    if how == "replaced":
        write_tar(shards / "new", labelled(10, 6)).replace(path)
    elif how == "cut":
        os.truncate(path, 1024)
    else:
        write_tar(path, labelled(30, 6))
    train.read(np.arange(10))  # the others are as they were
    with pytest.raises(DataError, match="changed, replaced or deleted") as error:
        train.read(np.arange(10, 16))
    assert error.value.where == str(path)


def test_no_shards_and_no_folder_are_data_errors(tmp_path):
    (tmp_path / "s").mkdir()
    for root, what in ((tmp_path / "s", "no .tar files"), (tmp_path / "t", "no such folder")):
        with pytest.raises(DataError, match=what):
            source_of(root)


def test_a_spoiled_byte_anywhere_is_a_finding_or_a_picture(tmp_path):
    """Random damage ends in samples, findings and DataErrors, never in anything else."""
    path = write_tar(tmp_path / "s" / "train.tar", labelled(0, 6) | {"x" * 150 + ".png": b"1"}, tarfile.GNU_FORMAT)
    whole, dice = path.read_bytes(), random.Random(0)
    for _ in range(50):
        content = bytearray(whole[: dice.choice([len(whole), dice.randrange(1, len(whole))])])
        for _ in range(dice.randrange(1, 8)):  # mostly in headers, which lie at multiples of 512
            block = dice.randrange(0, len(content), 512)
            content[min(len(content) - 1, block + dice.randrange(512))] = dice.randrange(256)
        path.write_bytes(content)
        listing = read_shards(tmp_path / "s")
        if len(listing):
            samples = ImageFilesSamples(listing.root, listing.paths, torch.from_numpy(listing.labels), None)
            assert all(isinstance(samples.source(row), bytes) for row in range(len(samples)))


# --- the same as from a folder ---------------------------------------------------------------------------------------


YAML = """
task: classification
data: {{name: {name}, root: {root}, test: 0}}
augment: [{{name: horizontal_flip}}, {{name: random_resized_crop}}]
model: {{name: mlp, hidden: [8]}}
loss: {{name: cross_entropy}}
optimizer: {{name: sgd, lr: 0.01}}
schedule: {{name: constant}}
train: {{epochs: 2, batch_size: 6, baselines: false, device: cpu, threads: 1}}
loader: {{cache: none, workers: 0}}
"""


@pytest.fixture
def both(tmp_path, mlcli):
    """The same pictures in a folder and in the shards that `mlcli data convert` writes of it, each with a YAML."""
    write_folder(tmp_path / "pets")
    (tmp_path / "folder.yaml").write_text(YAML.format(name="folder", root="pets"))
    (tmp_path / "shards.yaml").write_text(YAML.format(name="shards", root="wds"))
    done = mlcli("data", "convert", "folder.yaml", "-o", "wds", "--shard-size", "64k")
    assert done.code == 0, done.err
    assert "name: shards" in done.out
    return tmp_path


def test_training_from_shards_gives_the_same_bits_also_where_it_was_resumed(both, mlcli):
    for arguments in (
        ("folder.yaml", "--name", "folder"), ("shards.yaml", "--name", "shards", "train.epochs=1"),
        ("--resume", "shards", "train.epochs=2"),
    ):  # fmt: skip
        done = mlcli("train", *arguments)
        assert done.code == 0, done.err
    losses = {}
    for name in ("folder", "shards"):
        (run,) = (both / "runs" / name).iterdir()
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses[name] = [value for line in lines for key, value in line.items() if "loss" in key or "accuracy" in key]
    assert len(losses["folder"]) > 4
    assert losses["folder"] == losses["shards"]


def feed_of(path, ranks=None, **loader):
    experiment = Experiment.load(path, [f"loader.{key}={value}" for key, value in loader.items()])
    task = experiment.build()
    runtime = decide_runtime(experiment.config, ranks) if ranks else decide_runtime(experiment.config)
    return experiment.config, task.feed(runtime)


def batches(feed, start, count):
    stream = feed.train_batches(start)
    return [next(stream) for _ in range(count)]


def test_order_and_augmentation_are_the_same_from_any_step_and_with_workers(both):
    _, folder = feed_of(both / "folder.yaml")
    _, shards = feed_of(both / "shards.yaml", workers=2)
    try:
        for start in (0, 5):
            for ours, theirs in zip(batches(shards, start, 6), batches(folder, start, 6), strict=True):
                assert torch.equal(ours.inputs, theirs.inputs)
                assert torch.equal(ours.targets, theirs.targets)
    finally:
        shards.close()


def read_of_rank(ranks: Ranks, path):
    config, feed = feed_of(path, ranks)
    from mlcli.engine.evaluate import choose_metric
    from mlcli.engine.state import TrainingState

    task, runtime = Experiment.load(path).build(), decide_runtime(config, ranks)
    state = TrainingState.start(task, feed, config, runtime, choose_metric(task, None))
    MicroBatches(config.train, state.progress, feed, ranks)
    read = []
    reader = ImageFilesSamples.read_crops
    ImageFilesSamples.read_crops = lambda self, indices, crops: read.append(indices) or reader(self, indices, crops)
    batches(feed, 0, 4)
    return np.concatenate(read).tolist()


def test_each_rank_reads_its_own_samples_alone(both):
    first, second = on_ranks(2, read_of_rank, both / "shards.yaml")
    assert not {*first} & {*second}
    _, feed = feed_of(both / "shards.yaml")
    everything = [index for batch in batches(feed, 0, 4) for index in batch.indices.tolist()]
    assert sorted(first + second) == sorted(everything)


def test_a_run_finds_its_samples_again_whichever_way_they_lie(both):
    (folder, shards) = (
        build_source(kind(name=name, root=both / root, test=0)).membership()
        for kind, name, root in ((ImageFolder, "folder", "pets"), (ImageShards, "shards", "wds"))
    )
    for split in folder.splits:
        ours, theirs = shards.splits[split], folder.splits[split]
        assert (ours.keys[:, 1] == theirs.keys[:, 1]).all()  # their contents
        assert (ours.targets == theirs.targets).all()


def test_convert_writes_the_same_bytes_and_the_bytes_of_the_files(both, mlcli):
    assert mlcli("data", "convert", "folder.yaml", "again", "--to", "shards", "--shard-size", "64k").code == 0
    for path in sorted((both / "wds").iterdir()):
        assert path.read_bytes() == (both / "again" / path.name).read_bytes()
    with tarfile.open(both / "wds" / "train-000000.tar") as tar:
        first = tar.next()
        assert tar.extractfile(first).read() == (both / "pets" / first.name).read_bytes()
        assert (first.mtime, first.uid, first.uname) == (0, 0, "")


def test_names_that_no_key_can_be_become_others(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "list.csv").write_text("path,label\n../a.b.png,cat\n../a.b.jpg,dog\nplain,cat\n../a_b.png,dog\n")
    for number, name in enumerate(("a.b.png", "a.b.jpg", "x/plain", "a_b.png")):
        (tmp_path / name).write_bytes(picture(number, kind="jpeg" if "jpg" in name else "png"))
    was = build_source(ImageCsv(name="image_csv", file=tmp_path / "x" / "list.csv", val=0, test=0))
    write_classes(was, tmp_path / "wds", 2**20)
    with tarfile.open(tmp_path / "wds" / "train-000000.tar") as tar:
        names = tar.getnames()
    assert names[::2] == ["a_b.png", "a_b-2.jpg", "plain.png", "a_b-3.png"]
    now = source_of(tmp_path / "wds", val=0).splits["train"]
    assert torch.equal(now.read(np.arange(4)), was.splits["train"].read(np.arange(4)))
    assert now.targets.tolist() == [0, 1, 0, 1]


def test_a_full_disk_is_told_and_leaves_nothing(both, monkeypatch):
    def full(operation, *arguments):
        if operation is os.write and len(arguments[1]) > 10_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return operation(*arguments)

    monkeypatch.setattr(files, "perform", full)
    source = build_source(ImageFolder(name="folder", root=both / "pets", test=0))
    with pytest.raises(OutputError, match="No space left"):
        write_classes(source, both / "full", 2**20)
    assert os.listdir(both / "full") == [] if (both / "full").exists() else True


def test_new_shards_are_new_data(both):
    trained = ImageFolder(name="folder", root=both / "pets")
    assert new_data(trained, both / "wds", "label") == ImageShards(name="shards", root=both / "wds", val=0, test=0)


def test_convert_begins_anew_and_refuses_what_it_could_harm(both, mlcli):
    before = {path.name: path.read_bytes() for path in (both / "wds").iterdir()}
    assert mlcli("data", "convert", "folder.yaml", "wds").code == 6
    (both / "wds" / ".unfinished").write_bytes(b"")
    refused = mlcli("train", "shards.yaml")
    assert (refused.code, "not whole" in refused.err) == (4, True)
    assert mlcli("data", "convert", "folder.yaml", "wds", "--shard-size", "64k").code == 0
    assert {path.name: path.read_bytes() for path in (both / "wds").iterdir()} == before
    (both / "wds" / ".unfinished").write_bytes(b"")
    (both / "wds" / "mine.txt").write_bytes(b"")
    assert mlcli("data", "convert", "folder.yaml", "wds").code == 6
    assert (both / "wds" / "mine.txt").exists()
    inside = mlcli("data", "convert", "folder.yaml", "pets/train/shards")
    assert (inside.code, "lies in the folder that is read" in inside.err) == (2, True)
    for given in ("10", "x", "9999999TB"):
        assert mlcli("data", "convert", "folder.yaml", "new", "--shard-size", given).code == 2
    assert mlcli("data", "convert", "folder.yaml", "new", "--to", "coco").code == 2
    assert mlcli("data", "convert", "folder.yaml").code == 2
    assert not (both / "new").exists()


def test_built_in_pictures_become_shards(tmp_path):
    was = build_source(Digits(name="digits"))
    was = replace(was, splits={split: part.only(np.arange(40)) for split, part in was.splits.items()})
    write_classes(was, tmp_path / "wds", 2**16)
    now = build_source(ImageShards(name="shards", root=tmp_path / "wds", channels=1))
    for split, part in was.splits.items():
        assert torch.equal(now.splits[split].read(np.arange(40)), part.inputs)
        assert torch.equal(now.splits[split].targets, part.targets)


def test_check_and_init_know_shards(both, mlcli):
    data = ImageShards(name="shards", root=both / "wds", test=0)
    examination = examine(data, regression=False)
    assert not examination.count("error")
    assert examination.figures["splits"] == {"train": 24, "val": 8}
    done = mlcli("init", "wds", "-o", "new.yaml")
    assert done.code == 0, done.err
    assert isinstance(Experiment.load(both / "new.yaml").config.data, ImageShards)
    path = both / "wds" / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:2000])
    assert any("cut off" in str(finding) for finding in examine(data, regression=False).findings)


def test_copies_in_two_splits_are_found(tmp_path):
    write_tar(tmp_path / "s" / "train.tar", labelled(0, 12))
    write_tar(tmp_path / "s" / "val.tar", labelled(8, 6))
    source = source_of(tmp_path / "s", duplicates="one_split")
    assert [len(part) for part in source.splits.values()] == [8, 10]


def test_damaged_pictures_are_left_out_where_that_is_wanted(tmp_path):
    members = labelled(0, 12) | {"0003.png": b"no picture"}
    write_tar(tmp_path / "s" / "train.tar", members)
    with pytest.raises(DataError) as error:
        source_of(tmp_path / "s", val=0)
    assert error.value.where.endswith("train.tar/0003.png")
    source = source_of(tmp_path / "s", val=0, bad_images="skip", max_bad_share=0.1)
    assert len(source.splits["train"]) == 11


def test_an_address_that_is_none_is_a_config_error(tmp_path):
    listing = list_images(ImageShards(name="shards", root="nosuch://user:secret@host/x?key=secret"))
    assert "nosuch://" in listing.findings[0].text
    assert "secret" not in str(listing)
    with pytest.raises((ConfigError, DataError)):
        source_of("nosuch://host/x")
