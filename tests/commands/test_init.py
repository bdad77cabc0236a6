"""What `mlcli init` proposes fits the data it looked at, loads, and trains."""

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from mlcli.data.sources.build import build_source
from mlcli.errors import DataError, ExitCode
from mlcli.experiment import Experiment, json_schema


def picture(path: Path, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> None:
    rng = random.Random(str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = rng.randrange(256) if mode == "L" else tuple(rng.randrange(256) for _ in mode)
    Image.new(mode, size, colour).save(path)


def pictures(root: Path, counts: dict[str, int], size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Path:
    for name, count in counts.items():
        for i in range(count):
            picture(root / name / f"{i}.png", size, mode)
    return root


def proposal(mlcli, *arguments: object):
    """The configuration that init writes, as text and typed."""
    done = mlcli("init", *arguments, "--force")
    assert (done.code, done.err) == (ExitCode.OK, "")
    experiment = Experiment.load(Path("config.yaml"))
    return experiment.source_text, experiment.config


@pytest.mark.parametrize(("what", "model"), [("digits", "mlp"), ("xor", "mlp"), ("scenes", "yolo")])
def test_built_in_data(mlcli, what, model):
    text, config = proposal(mlcli, what)
    assert (config.data.name, config.model.name) == (what, model)
    assert 20 <= len(text.splitlines()) <= 30
    assert text.count("#") >= 8


def test_editors_find_the_schema_in_the_first_line(mlcli):
    text, _ = proposal(mlcli)
    assert text.split("\n")[0] == "# yaml-language-server: $schema=./mlcli.schema.json"
    assert json.loads(Path("mlcli.schema.json").read_text()) == json_schema()


def test_nothing_is_overwritten_unasked(mlcli):
    Path("config.yaml").write_text("mine")
    done = mlcli("init")
    assert (done.code, Path("config.yaml").read_text()) == (ExitCode.CONFIG, "mine")
    assert "config.yaml exists already" in done.err
    assert "--force" in done.err
    assert not Path("mlcli.schema.json").exists()
    assert mlcli("init", "--force").code == ExitCode.OK
    assert mlcli("init", "-o", "other.yaml").out.startswith("wrote other.yaml (")


def test_output_that_cannot_be_written(mlcli):
    done = mlcli("init", "-o", "no/such/folder/x.yaml")
    assert done.code == ExitCode.OUTPUT
    assert "No such file or directory" in done.err


# --- folders of images -----------------------------------------------------------------------------------------------


def test_small_images_in_class_folders(mlcli):
    pictures(Path("pets"), {"bird": 20, "cat": 40, "dog": 60})
    picture(Path("pets/cat/.hidden.png"))
    text, config = proposal(mlcli, "pets")
    assert "# pets: 3 classes, 120 images, all 32x32 pixels.\n" in text
    assert "dog has 60 images, bird 20" in text
    assert config.data.root == Path.cwd() / "pets"
    assert (config.data.image_size, config.data.channels, config.data.val, config.data.test) == (None, 3, 0.15, 0.15)
    assert (config.model.name, config.loss.class_weights) == ("cnn", "balanced")
    assert [change.name for change in config.augment] == ["random_crop", "horizontal_flip"]
    source = build_source(config.data)
    assert sum(map(len, source.splits.values())) == 120
    assert config.train.batch_size <= len(source.splits["train"]) / 10


def test_large_images_of_several_sizes(mlcli):
    pictures(Path("photos"), {"a": 14, "b": 15}, (300, 240))
    picture(Path("photos/a/tall.jpg"), (240, 400))
    text, config = proposal(mlcli, "photos")
    assert "97% of them 300x240 pixels" in text
    assert (config.data.image_size, config.model.name, config.model.stem) == (224, "resnet", "imagenet")
    assert config.augment[0].name == "random_resized_crop"


def test_photographs_may_be_learned_from_imagenets_weights(mlcli):
    pictures(Path("photos"), {"a": 14, "b": 15}, (300, 240))
    typed = mlcli("init", "photos")
    assert "fine-tuning ImageNet's weights mostly learns more from as few: mlcli init photos --pretrained" in typed.out
    text, config = proposal(mlcli, "photos", "--pretrained")
    assert (config.model.name, config.model.arch, config.model.weights) == ("torchvision", "resnet18", "default")
    assert (config.data.image_size, config.data.normalize) == (224, "imagenet")
    assert (config.finetune.unfreeze_at, config.finetune.trunk_lr) == (4, 0.1)
    assert "Without a network, bring that file along and name it as model.weights" in text
    Path("t.csv").write_text("x,y\n" + "1,a\n2,b\n" * 20)
    for other in ("t.csv", "digits"):
        refused = mlcli("init", other, "--pretrained", "--force")
        assert refused.code == ExitCode.CONFIG
        assert "where: --pretrained" in refused.err


def test_given_splits_and_grey_images(mlcli):
    for split, count in {"train": 30, "valid": 5, "test": 6}.items():
        pictures(Path("letters") / split, {"a": count, "b": count}, (20, 20), "L")
    text, config = proposal(mlcli, "letters")
    assert "# Splits: 60 train, 10 val, 12 test." in text
    assert (config.data.channels, [change.name for change in config.augment]) == (1, ["random_crop"])
    assert "val:" not in text
    assert {split: len(part) for split, part in build_source(config.data).splits.items()} == {
        "train": 60,
        "val": 10,
        "test": 12,
    }


def test_folders_taken_for_splits_are_named(mlcli):
    for split in ("Training", "Testing"):
        pictures(Path("scans") / split, {"a": 12, "b": 12}, (20, 20), "L")
    typed = mlcli("init", "scans")
    assert "Folders taken for splits by their names: Testing/: test, Training/: train" in typed.out
    assert "Folders taken for splits" in Path("config.yaml").read_text()


def test_missing_test_split_is_held_out(mlcli):
    for split in ("train", "val"):
        pictures(Path("letters") / split, {"a": 20, "b": 20})
    text, config = proposal(mlcli, "letters")
    assert "  test: 0.15" in text
    assert "  val: 0.15" not in text
    assert set(build_source(config.data).splits) == {"train", "val", "test"}


def test_what_is_warned_of_in_the_file_is_said_on_the_screen_too(mlcli):
    pictures(Path("few"), {"cat": 1, "dog": 20})
    assert "warning: cat has 1 images" in mlcli("init", "few", "-o", "few.yaml").out


def test_unreadable_images_are_counted_and_skipped(mlcli):
    pictures(Path("pets"), {"cat": 20, "dog": 20})
    Path("pets/cat/broken.png").write_text("no picture")
    text, config = proposal(mlcli, "pets")
    assert "WARNING: 1 of 41 images cannot be read" in text
    assert config.data.bad_images == "skip"
    assert sum(map(len, build_source(config.data).splits.values())) == 40


@pytest.mark.parametrize("side", [4, 8, 12, 28, 64, 65, 128])
def test_model_takes_the_images(mlcli, side):
    import torch

    from mlcli.data.info import DataInfo
    from mlcli.models.build import build

    pictures(Path("pets"), {"cat": 12, "dog": 12}, (side, side))
    _, config = proposal(mlcli, "pets")
    info = DataInfo("image", (3, side, side), ("cat", "dog"), "label", (0.5,) * 3, (0.5,) * 3)
    assert build(config.model, info).eval()(torch.zeros(2, 3, side, side)).shape == (2, 2)


def test_folder_of_images_trains(mlcli):
    pictures(Path("pets"), {"cat": 14, "dog": 14}, (16, 16))
    proposal(mlcli, "pets")
    done = mlcli(
        "train", "config.yaml", "train.epochs=1", "train.baselines=false", "train.device=cpu", "loader.workers=0"
    )
    assert done.code == ExitCode.OK, done.err


# --- CSV files -------------------------------------------------------------------------------------------------------

TABLES = {
    "numbers to predict": ("a,b,price\n", "{i}.2,x{p},{i}.5\n", "regression", "price"),
    "whole numbers to predict": ("a,b,count\n", "{p},x{p},{i}0\n", "regression", "count"),
    "words to predict": ("a,b,kind\n", "{i}.5,{p},k{p}\n", "classification", "kind"),
    "few whole numbers": ("a,b,kind\n", "{i}.2,{i}.5,{p}\n", "classification", "kind"),
    "target by name": ("a,Label,b\n", "{i}.2,k{p},{i}.5\n", "classification", "Label"),
    "label before y": ("y,label,b\n", "{i}.2,k{p},{i}.5\n", "classification", "label"),
    "semicolons": ("a;b;kind\n", "{i}.2;{p};k{p}\n", "classification", "kind"),
}


@pytest.mark.parametrize(("header", "row", "task", "target"), TABLES.values(), ids=list(TABLES))
def test_table(mlcli, header, row, task, target):
    Path("table.csv").write_text(header + "".join(row.format(i=i, p=i % 3) for i in range(60)))
    text, config = proposal(mlcli, "table.csv")
    assert (config.task, config.data.name, config.data.target) == (task, "csv", target)
    assert f"# table.csv: 60 rows, 2 columns to learn from.\n# Column to predict: {target} (" in text
    source = build_source(config.data, regression=task == "regression")
    assert sum(map(len, source.splits.values())) == 60


def test_a_guessed_target_is_no_id_no_name_and_no_copy(mlcli):
    rows = "".join(f"{i},k{i % 3},{7 * i % 50}.5,{i % 4},{i % 4},name {i},{i + 7}\n" for i in range(60))
    Path("table.csv").write_text("number,kind,weight,a,copy of a,name,person_id\n" + rows)
    text, config = proposal(mlcli, "table.csv")
    assert (config.task, config.data.target) == ("regression", "weight")
    said = "guessed because it is the last that is no id, no name and no copy of another; so this is a regression."
    assert f"{said} Others: --target kind\n" in text
    assert "Left out, as names of rows: number, name, person_id." in text
    assert said in mlcli("init", "table.csv", "--force").out


def test_a_target_in_thousands_is_not_taken_for_decimal_commas(mlcli):
    Path("table.csv").write_text("share,price\n" + "".join(f'0.{101 + i},"{101 + i},{200 + i}"\n' for i in range(60)))
    _, config = proposal(mlcli, "table.csv")
    assert (config.task, config.data.decimal) == ("regression", "auto")
    with pytest.raises(DataError, match="'101,200'") as caught:
        build_source(config.data, regression=True)
    assert "if it separates thousands: data.decimal=point" in caught.value.fix


def test_amounts_and_classes_that_could_be_either_are_told(mlcli):
    Path("table.csv").write_text("a,stars\n" + "".join(f"{i}.5,{i % 5}\n" for i in range(60)))
    text, config = proposal(mlcli, "table.csv")
    assert config.task == "classification"
    assert "# Its classes are numbers; to predict an amount instead: --task regression" in text
    assert "--task regression" not in proposal(mlcli, "table.csv", "--task", "classification")[0]


def test_target_and_task_are_taken_as_given(mlcli):
    Path("table.csv").write_text("id;kind;size\n" + "".join(f"{i};{i % 3 or ''};{i % 7},5\n" for i in range(60)))
    text, config = proposal(mlcli, "table.csv", "--target", "kind", "--task", "classification")
    assert (config.task, config.data.target, config.data.missing_target) == ("classification", "kind", "drop")
    assert "kind (2 classes), it was named" in text
    _, config = proposal(mlcli, "table.csv", "--target", "size", "--force")
    assert (config.task, config.data.decimal) == ("regression", "comma")
    build_source(config.data, regression=True)


def test_table_with_splits_and_names_of_rows(mlcli):
    rows = "".join(f"row {i},{i % 5},{i}.5,{('train', 'train', 'val', 'test')[i % 4]},k{i % 3}\n" for i in range(60))
    Path("table.csv").write_text("who,a,b,part,kind\n" + rows)
    text, config = proposal(mlcli, "table.csv")
    assert (config.data.drop, config.data.split_column, config.data.target) == (("who",), "part", "kind")
    assert "val:" not in text
    assert {split: len(part) for split, part in build_source(config.data).splits.items()} == {
        "train": 30, "val": 15, "test": 15}  # fmt: skip


@pytest.mark.parametrize(
    "name", ["no", "1e5", "a: b", "x # y", "5", "näme", "quo\"te's", "[1]", "*star", "{x", "~", "-"]
)
def test_odd_names_of_columns(mlcli, name):
    cell = '"' + name.replace('"', '""') + '"'
    Path("table.csv").write_text(f"a,b,{cell}\n" + "".join(f"{i},{i}.5,k{i % 2}\n" for i in range(30)))
    assert proposal(mlcli, "table.csv")[1].data.target == name


def test_list_of_images(mlcli):
    pictures(Path("pets"), {"cat": 14, "dog": 14}, (16, 16))
    rows = "".join(f"pets/{kind}/{i}.png,{kind}\n" for kind in ("cat", "dog") for i in range(14))
    Path("list.csv").write_text("file,animal\n" + rows)
    text, config = proposal(mlcli, "list.csv")
    assert "# list.csv: 2 classes, 28 images, all 16x16 pixels." in text
    assert (config.data.name, config.data.path_column, config.data.label_column) == ("image_csv", "file", "animal")
    assert sum(map(len, build_source(config.data).splits.values())) == 28


@pytest.mark.parametrize(
    ("written", "root"), [("pets/cat/{}.png", None), ("cat/{}", "pets"), ("pets\\cat\\{}.png", None), ("{}", None)]
)
def test_images_are_found_however_they_are_written(mlcli, written, root):
    """A list of 20 would otherwise be a table of 20 categories."""
    folder = Path("pets/cat") if "cat" in written else Path()
    for i in range(20):
        picture(folder / f"{i}.png")
    Path("list.csv").write_text("id,animal\n" + "".join(f"{written.format(i)},{'ab'[i % 2]}\n" for i in range(20)))
    _, config = proposal(mlcli, "list.csv")
    assert (config.data.name, config.data.root, config.data.path_column) == (
        "image_csv",
        root and Path.cwd() / root,
        "id",
    )
    assert sum(map(len, build_source(config.data).splits.values())) == 20


def test_a_list_of_images_that_are_not_there_is_no_table(mlcli):
    Path("list.csv").write_text("file,animal\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(20)))
    done = mlcli("init", "list.csv")
    assert done.code == ExitCode.DATA
    assert "column 'file' lists images, but they are not there, such as '0.png'" in done.err


def test_list_of_images_with_splits(mlcli):
    pictures(Path("pets"), {"cat": 20, "dog": 20}, (16, 16))
    part = ("train", "test")
    rows = "".join(f"pets/{kind}/{i}.png,{kind},{part[i % 2]}\n" for kind in ("cat", "dog") for i in range(20))
    Path("list.csv").write_text("path,label,split\n" + rows)
    text, config = proposal(mlcli, "list.csv")
    assert "# Splits: 20 train, 20 test." in text
    assert {split: len(found) for split, found in build_source(config.data).splits.items()}["test"] == 20


def test_table_trains(mlcli):
    Path("table.csv").write_text("a,b,price\n" + "".join(f"{i},x{i % 3},{i}.5\n" for i in range(60)))
    proposal(mlcli, "table.csv")
    done = mlcli("train", "config.yaml", "train.epochs=1", "train.baselines=false", "train.device=cpu")
    assert done.code == ExitCode.OK, done.err


# --- what cannot be used ---------------------------------------------------------------------------------------------


def _prepare() -> None:
    Path("empty").mkdir()
    picture(Path("loose/a.png"))
    Path("nopictures/a").mkdir(parents=True)
    Path("nopictures/a/x.txt").touch()
    Path("broken/a").mkdir(parents=True)
    Path("broken/a/x.png").touch()
    Path("empty.csv").touch()
    Path("header.csv").write_text("a,b\n")
    Path("narrow.csv").write_text("a\n1\n2\n")
    Path("headless.csv").write_text("1,2\n3,4\n")
    Path("notes.md").touch()
    Path("table.xlsx").touch()


WRONG = {
    "unknown name": (
        "digts",
        ExitCode.CONFIG,
        "there is no data set, folder or file called digts",
        "did you mean digits?",
    ),
    "home of nobody": (
        "~nobody_here/photos",
        ExitCode.CONFIG,
        "there is no data set, folder or file called ~nobody_here/photos",
        "digits",
    ),
    "missing path": (
        "no/where",
        ExitCode.CONFIG,
        "there is no data set, folder or file called no/where",
        "give digits",
    ),
    "other file": ("notes.md", ExitCode.CONFIG, "notes.md is neither a folder nor a CSV file", "give a folder"),
    "empty folder": ("empty", ExitCode.DATA, "there are no images in empty", "lay images out as empty/CLASS/*.jpg"),
    "no images": ("nopictures", ExitCode.DATA, "1 class folder holds no images: a", "add images (jpg"),
    "no class folders": ("loose", ExitCode.DATA, "there are no class folders in loose, only 1 image", "lay images out"),
    "only broken images": ("broken", ExitCode.DATA, "none of the 1 images looked at can be read", "broken"),
    "empty CSV": ("empty.csv", ExitCode.DATA, "the file is empty", "empty.csv"),
    "no rows": ("header.csv", ExitCode.DATA, "there is a header but no rows", "header.csv"),
    "one column": ("narrow.csv", ExitCode.DATA, "there is one column only, 'a'", "add a column to predict"),
    "a workbook": ("table.xlsx", ExitCode.CONFIG, "neither a folder nor a CSV file", "save it as .csv"),
    "no header": ("headless.csv", ExitCode.DATA, "the first line holds numbers", "put a header line on top"),
}


@pytest.mark.parametrize(("what", "code", "message", "hint"), WRONG.values(), ids=list(WRONG))
def test_what_cannot_be_used_is_refused(mlcli, what, code, message, hint):
    _prepare()
    done = mlcli("init", what)
    assert done.code == code
    assert message in done.err
    assert hint in done.err
    assert done.err.count("\n") <= 5
    assert not Path("config.yaml").exists()


def test_one_hot_labels_are_proposed_as_one(mlcli):
    rows = [f"{n % 7},{int(n % 3 == 0)},{int(n % 3 == 1)},{int(n % 3 == 2)}" for n in range(60)]
    Path("pets.csv").write_text("\n".join(["weight,cat,dog,owl", *rows]))
    text, config = proposal(mlcli, "pets.csv")
    assert config.data.target == ("cat", "dog", "owl")
    assert "Column to predict: cat, dog, owl (3 classes)" in text
    assert build_source(config.data).info.class_names == ("cat", "dog", "owl")
