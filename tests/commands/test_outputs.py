"""What mlcli writes is never read as data, and what it reads is never written over."""

import os

import numpy as np
import pytest
from PIL import Image

from mlcli.data.sources.build import build_source
from mlcli.data.sources.image_folder import find_images, read_folder
from mlcli.data.survey import Place
from mlcli.errors import DataError, OutputError
from mlcli.experiment import Experiment
from mlcli.outputs import MARK, cache_folder, make_output_folder

TRAIN = ["train.epochs=1", "train.batch_size=4", "train.threads=1", "train.baselines=false", "data.image_size=12"]


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes, twelve pictures each."""
    noise = np.random.default_rng(0)
    for number in range(24):
        path = tmp_path / f"photos/{('cat', 'dog')[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def test_what_is_written_among_the_data_is_no_class(photos, mlcli, monkeypatch):
    monkeypatch.chdir(photos)
    assert mlcli("init", ".").code == 0
    (photos / "config.yaml").write_text("task: classification\ndata: {name: folder, root: .}\nmodel: {name: linear}\n")
    assert mlcli("train", photos / "config.yaml", "--out", photos / "runs", *TRAIN).code == 0
    assert mlcli("data", "check", photos / "config.yaml", "--out", photos / "runs").code == 0
    predicted = mlcli("predict", "config", photos, "--pictures", photos / "shown", "--out", photos / "runs")
    assert predicted.out.count("\n") == 24
    listing = read_folder(photos)
    assert (listing.class_names, len(listing)) == (("cat", "dog"), 24)
    assert [finding.places for finding in listing.findings if finding.kind == "outputs"] == [("runs", "shown")]
    assert len(find_images(photos)) == Place(photos, ".").images.total == 24
    assert len(build_source(Experiment.load(photos / "config.yaml").config.data).splits) == 3
    (photos / "runs" / MARK).unlink()  # neither where the mark is lost, of runs
    assert len(list((photos / "shown").iterdir())) == 24  # pictures and nothing else, known one by one
    assert read_folder(photos).class_names == ("cat", "dog")
    with pytest.raises(DataError, match="those that mlcli wrote"):
        find_images(photos / "shown")
    for path in [*(photos / "shown").iterdir()][:5]:
        path.rename(photos / "cat" / path.name)
    mixed = read_folder(photos)
    assert len(mixed) == 24
    assert "5 pictures that mlcli drew are not read" in [finding.text for finding in mixed.findings]


def test_folders_with_other_things_in_them_are_not_marked(photos):
    make_output_folder(photos / "cat")
    make_output_folder(photos.parent / "new/deep")
    assert not (photos / "cat" / MARK).exists()
    assert (photos.parent / "new" / MARK).exists()
    assert (photos.parent / "new/deep" / MARK).exists()


@pytest.mark.parametrize("kind", ["same", "link", "hard link", "training data"])
def test_answers_do_not_replace_what_is_read(kind, runs_root, tmp_path, mlcli):
    table, answers = tmp_path / "rows.csv", tmp_path / "answers.csv"
    content = (runs_root.parent / "wine.csv").read_bytes()
    table.write_bytes(content)
    match kind:
        case "same":
            answers = table
        case "link":
            answers.symlink_to(table)
        case "hard link":
            os.link(table, answers)
        case _:
            answers = runs_root.parent / "wine.csv"
    typed = mlcli("predict", "wine", table, "-o", answers, "--out", runs_root)
    assert (typed.code, "is read, and would be replaced" in typed.err) == (2, True)
    assert answers.read_bytes() == table.read_bytes() == content


def test_pictures_do_not_go_among_those_that_are_read(photos, runs_root, mlcli):
    typed = mlcli("predict", "digits", photos, "--pictures", photos, "--out", runs_root)
    assert (typed.code, len(list(photos.iterdir()))) == (2, 2)


def test_a_new_yaml_does_not_replace_data(photos, mlcli):
    (photos.parent / "t.csv").write_text("a,y\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
    (photos / "data.yaml").write_text("names: [cat, dog]\n")
    for what, output in (("t.csv", "t.csv"), ("photos", "photos/x.jpg"), ("photos", "photos/data.yaml")):
        typed = mlcli("init", what, "-o", output, "--force")
        assert (typed.code, "--output" in typed.err) == (2, True)
    assert (photos / "data.yaml").read_text() == "names: [cat, dog]\n"
    assert not (photos / "x.jpg").exists()
    assert (photos.parent / "t.csv").read_text().startswith("a,y\n")


def test_a_user_without_a_home_is_told_where_a_cache_can_be(monkeypatch, tmp_path):
    """As in a container that is started with a number nobody has."""

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr(pytest.importorskip("pwd"), "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OutputError, match="no home directory") as error:
        cache_folder("samples")
    assert "XDG_CACHE_HOME" in error.value.fix
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("samples") == tmp_path / "mlcli/samples"
