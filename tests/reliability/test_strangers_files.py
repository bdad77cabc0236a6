"""Pipes, devices, loops of links and files without end in the place of what is read; links where mlcli writes."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlcli import files
from mlcli.data.decode import Preparation, read_image, read_size
from mlcli.data.inputs import ImageInputs
from mlcli.data.sources.csv_file import read_csv
from mlcli.data.sources.image_folder import read_folder
from mlcli.engine.run import RunFolder, create_run
from mlcli.errors import CheckpointError, ConfigError, DataError, OutputError
from mlcli.files import refuse_links
from mlcli.models.weights import read_weights
from mlcli.report.record import Record
from mlcli.schema.yaml12 import read_text


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**36)


ODD: dict[str, Callable[[Path], None]] = {
    "a named pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": os.mkdir,
    "a loop of links": lambda path: path.symlink_to(path.name),
    "64 GB of nothing": sparse,
}


@pytest.fixture(params=ODD)
def odd(request, tmp_path) -> Callable[[str], Path]:
    """Makes something odd of a name."""

    def make(name: str) -> Path:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).unlink(missing_ok=True)
        ODD[request.param](tmp_path / name)
        return tmp_path / name

    return make


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_a_picture_that_is_none_is_named_and_the_others_are_answered(odd, tmp_path, name):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "whole.png")
    below = tmp_path / "whole.png" / "below.png"  # ENOTDIR
    inputs = ImageInputs([tmp_path / "whole.png", odd(name), below, tmp_path / f"{'n' * 300}.png"], Preparation((8, 8)))
    good, pixels, errors = inputs.read(range(4))
    assert good == [0]
    assert pixels.shape == (1, 3, 8, 8)
    assert errors.keys() == {1, 2, 3}
    for read in (read_size, lambda path: read_image(path, 3)):
        with pytest.raises(DataError, match="cannot read image: ") as caught:
            read(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)


def test_a_loop_of_links_among_folders_of_classes_is_no_folder(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "ant" / "2.png").symlink_to("2.png")
    assert read_folder(tmp_path).class_names == ("ant", "bee")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_picture_whose_disk_fails_is_named_with_what_the_system_says(tmp_path, monkeypatch, number):
    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "open", fail)
    with pytest.raises(DataError, match=f"cannot read image: {os.strerror(number)}"):
        read_image(tmp_path / "x.png", 3)


def test_texts(odd):
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        read_text(odd("x.yaml"))
    assert [finding.severity for finding in read_csv(odd("x.csv")).faults] == ["error"]
    for ending in ("pth", "safetensors", "ckpt"):
        with pytest.raises(CheckpointError):
            read_weights(odd(f"x.{ending}"))


def test_a_yaml_and_a_table_that_the_shell_hands_over_are_read(tmp_path):
    for read, content in ((read_text, "a: 1"), (lambda path: read_csv(path).header[0], "a,b\n1,2")):
        reading, writing = os.pipe()
        os.write(writing, content.encode())
        os.close(writing)
        assert content.startswith(read(Path(f"/dev/fd/{reading}")))
        os.close(reading)


@pytest.mark.parametrize(
    "name",
    [
        "status.json",
        "metrics.jsonl",
        "layers.jsonl",
        "summary.json",
        "resolved.yaml",
        "environment.json",
        "baselines.json",
        "evaluation-test.json",
        "run.lock",
        "pictures/test.png",
    ],
)
def test_a_run_folder_is_read_without_what_is_no_file(odd, tmp_path, name):
    (tmp_path / "status.json").write_text('{"state": "running"}')
    (tmp_path / "pictures").mkdir()
    path = odd(name)
    record = Record.read(RunFolder(path.parent if path.parent.name != "pictures" else tmp_path))
    assert record.entries == record.layers == []


@pytest.mark.parametrize("name", ["checkpoints", "pictures", "tensorboard", "train", "val", "test", "run.lock"])
def test_links_in_a_run_that_goes_on_are_refused(tmp_path, name):
    run = create_run(tmp_path, "a")
    run.unlock()
    (tmp_path / "mine").mkdir()
    path = run.path / name
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / "mine")
    with pytest.raises(OutputError, match="link"):
        run.lock()
    assert not run.is_held()
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_link_in_the_place_of_a_folder_of_pictures_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "data-check").symlink_to("photos")
    with pytest.raises(OutputError, match="not followed"):
        refuse_links(tmp_path / "data-check")
