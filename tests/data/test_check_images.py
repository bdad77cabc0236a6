"""`mlcli data check` on folders of images: every planted fault is found, and a clean folder raises no alarm."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from mlcli.data import scan
from mlcli.data.check.duplicates import duplicate_findings
from mlcli.data.check.examination import Examination
from mlcli.data.check.examine import examine
from mlcli.data.config import Digits, ImageCsv, ImageFolder
from mlcli.data.finding import Finding
from mlcli.data.likeness import find_pairs
from mlcli.data.scan import Collection, HeldPictures
from mlcli.data.source import Arrays
from mlcli.data.sources.build import build_source
from mlcli.data.sources.image_csv import read_image_csv
from mlcli.data.sources.image_folder import read_folder
from mlcli.data.splits import SPLITS
from tests.data.check_images import CLASSES, picture, write_clean, write_split


def check(root: Path, **options) -> Examination:
    return examine(ImageFolder(name="folder", root=root, **options), regression=False)


def worth_attention(examination: Examination) -> list[Finding]:
    return [finding for finding in examination.findings if finding.severity != "note"]


def found(examination: Examination, kind: str) -> Finding:
    matching = [finding for finding in examination.findings if finding.kind == kind]
    assert len(matching) == 1, [finding.kind for finding in examination.findings]
    return matching[0]


# --- no alarm --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> Path:
    return write_clean(tmp_path_factory.mktemp("clean"))


def test_a_clean_folder_raises_no_alarm(clean):
    examination = check(clean)
    assert examination.findings == []
    assert examination.figures["splits"] == {"train": 120, "val": 36, "test": 36}
    assert examination.figures["classes"]["bee"] == {"train": 40, "val": 12, "test": 12}
    assert examination.figures["looked_at"] == 192
    assert [sheet.name for sheet in examination.sheets] == ["classes"]


def test_digits_raise_no_alarm():
    examination = examine(Digits(name="digits"), regression=False)
    assert worth_attention(examination) == []


def test_jpegs_of_one_scene_in_many_sizes_are_fine_with_an_image_size(tmp_path):
    for label, name in enumerate(CLASSES):
        (tmp_path / name).mkdir()
        for number in range(30):
            picture(label, number, (40 + number, 36 + number)).save(tmp_path / name / f"{number}.jpg", quality=90)
    assert worth_attention(check(tmp_path, image_size=32)) == []
    refused = check(tmp_path)
    assert found(refused, "different-sizes").fix == "data.image_size=32"
    assert "data.image_size" in found(refused, "refused").fix


# --- planted faults --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Examination:
    """A folder with one of everything, looked at once."""
    root = write_clean(tmp_path_factory.mktemp("damaged"))
    train, test = root / "train", root / "test"
    whole = (train / "ant/000.png").read_bytes()
    (train / "ant/truncated.png").write_bytes(whole[: len(whole) // 2])
    (train / "ant/empty.jpg").write_bytes(b"")
    (train / "ant/page.jpg").write_text("<!doctype html><html>not found</html>")
    (train / "ant/text.png").write_text("hello")
    picture(0, 50).save(train / "ant/lies.png", "jpeg")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, 51).save(train / "ant/turned.jpg", exif=exif)
    clear = picture(0, 52).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(train / "ant/clear.png")
    deep = np.asarray(picture(0, 53).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(train / "ant/deep.png")
    picture(0, 54).save(train / "ant/moving.gif", save_all=True, append_images=[picture(0, 55), picture(0, 56)])
    picture(1, 57).convert("L").save(train / "bee/grey.png")
    picture(1, 58).convert("CMYK").save(train / "bee/print.jpg")
    picture(1, 59, (10, 9)).save(train / "bee/tiny.png")
    picture(1, 60).resize((5000, 3600), Image.Resampling.NEAREST).save(train / "bee/huge.jpg")
    picture(1, 61, (400, 40)).save(train / "bee/long.png")
    Image.new("RGB", (48, 40), (0, 0, 0)).save(train / "bee/black.png")
    Image.new("RGB", (48, 40), (250, 250, 250)).save(train / "bee/white.png")
    (train / "bee/copy.png").write_bytes((train / "bee/001.png").read_bytes())
    (test / "cat/leak.png").write_bytes((train / "cat/002.png").read_bytes())
    Image.open(train / "cat/003.png").resize((96, 80)).save(test / "cat/saved.jpg", quality=80)
    mirrored = Image.open(train / "cat/004.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    ImageEnhance.Brightness(mirrored).enhance(0.9).save(test / "cat/mirrored.png")
    Image.open(train / "cat/005.png").save(train / "ant/cat-as-ant.png")
    for number in range(3):
        (train / f"ant/wrong-{number}.png").write_bytes(b"")
        picture(2, 70 + number).save(train / f"ant/wrong-{number}.png")
    (train / "cat/notes.txt").write_text("")
    (train / "cat/phone.heic").write_bytes(b"\0")
    picture(0, 80).save(train / "loose.png")
    (root / "extra").mkdir()
    (train / "empty").mkdir()
    for name, count in (("Bee", 1), ("cats", 1), ("yak", 2)):
        (train / name).mkdir()
        for number in range(count):
            picture(3, 100 * len(name) + 10 * (name == "Bee") + number).save(train / name / f"{number}.png")
    return check(root, image_size=32)


PLANTED = {
    "unreadable": ("error", {f"train/ant/{n}" for n in ("truncated.png", "empty.jpg", "page.jpg", "text.png")}),
    "extension-lies": ("note", {"train/ant/lies.png"}),
    "rotated": ("note", {"train/ant/turned.jpg"}),
    "alpha": ("note", {"train/ant/clear.png"}),
    "16-bit": ("note", {"train/ant/deep.png"}),
    "animation": ("warning", {"train/ant/moving.gif"}),
    "grey-among-colour": ("note", {"train/ant/deep.png", "train/bee/grey.png"}),
    "cmyk": ("note", {"train/bee/print.jpg"}),
    "tiny": ("warning", {"train/bee/tiny.png"}),
    "huge": ("note", {"train/bee/huge.jpg"}),
    "extreme-aspect": ("warning", {"train/bee/long.png"}),
    "blank": ("warning", {"train/bee/black.png", "train/bee/white.png"}),
    "empty-class": ("error", {"train/empty"}),
    "loose-images": ("note", {"train/loose.png"}),
    "unused-folders": ("note", {"extra"}),
    "other-files": ("note", {"train/cat: 1 .txt"}),
    "unknown-picture-format": ("warning", {"train/cat: 1 .heic"}),
    "labels-alike": ("error", {"'Bee' / 'bee'"}),
    "class-missing": ("error", None),
    "class-small": ("warning", {"Bee (1)", "cats (1)", "yak (2)"}),
    "unbalanced": ("warning", set()),
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_fault_is_found_with_its_files(damaged, kind):
    severity, places = PLANTED[kind]
    matching = [f for f in damaged.findings if f.kind == kind]
    assert {finding.severity for finding in matching} == {severity}
    if places is not None:
        named = {place.split(" (")[0] if kind != "class-small" else place for f in matching for place in f.places}
        assert named == places


def test_planted_duplicates_are_found_in_the_right_place(damaged):
    across = found(damaged, "duplicates-across-splits")
    assert across.severity == "error"
    assert across.places == ("train/cat/002.png = test/cat/leak.png", "train/cat/003.png = test/cat/saved.jpg")
    assert "2 images of test are also in train" in across.text
    near = found(damaged, "near-duplicates-across-splits")
    assert near.severity == "warning"
    assert near.places == ("train/cat/004.png ~ mirrored test/cat/mirrored.png",)
    labels = found(damaged, "duplicates-with-different-labels")
    assert labels.severity == "error"
    assert labels.places == ("train/ant/cat-as-ant.png 'ant' = train/cat/005.png 'cat'",)
    assert found(damaged, "duplicates").places == ("train/bee/001.png = train/bee/copy.png",)


def test_planted_wrong_labels_are_suspected(damaged):
    suspects = found(damaged, "suspicious-labels").places
    assert {place.split(":")[0] for place in suspects} >= {f"train/ant/wrong-{number}.png" for number in range(3)}
    assert all("looks like 'cat'" in place for place in suspects if "wrong" in place)


def test_plurals_are_taken_for_one_class(damaged):
    assert "'cat' (" in found(damaged, "labels-similar").places[0]


def test_training_is_asked_as_well(damaged):
    refused = found(damaged, "refused")
    assert refused.severity == "error"
    assert refused.text.startswith("training refuses this: 1 class folder holds no images: train/empty")


def test_nothing_else_is_claimed(damaged):
    known = {*PLANTED, "duplicates-across-splits", "near-duplicates-across-splits", "duplicates",
             "duplicates-with-different-labels", "suspicious-labels", "labels-similar", "refused"}  # fmt: skip
    assert {finding.kind for finding in damaged.findings} == known


def test_sheets_show_what_was_found(damaged):
    assert [sheet.name for sheet in damaged.sheets] == ["classes", "suspicious", "duplicates"]
    assert all(min(sheet.image.size) > 100 for sheet in damaged.sheets)


# --- other faults ----------------------------------------------------------------------------------------------------


def test_splits_of_other_brightness_are_noted(tmp_path):
    write_clean(tmp_path)
    for path in (tmp_path / "test").rglob("*.png"):
        ImageEnhance.Brightness(Image.open(path)).enhance(0.4).save(path)
    drift = found(check(tmp_path), "drift")
    assert drift.severity == "note"
    assert any(place.startswith("test: brightness") for place in drift.places)
    assert not any(place.startswith("val") for place in drift.places)


def test_unreadable_images_are_a_warning_where_training_leaves_them_out(tmp_path):
    write_clean(tmp_path)
    (tmp_path / "train/ant/bad.png").write_bytes(b"no image")
    assert found(check(tmp_path), "unreadable").severity == "error"
    skipping = check(tmp_path, bad_images="skip")
    assert found(skipping, "unreadable").severity == "warning"
    assert not any(finding.severity == "error" for finding in skipping.findings)
    strict = check(tmp_path, bad_images="skip", max_bad_share=0.0)
    assert found(strict, "unreadable").severity == "error"


def test_a_duplicate_leaks_through_a_split_that_is_still_to_be_made(tmp_path):
    write_split(tmp_path, 40)
    first = (tmp_path / "ant/000.png").read_bytes()
    for number in range(12):
        (tmp_path / f"ant/again-{number}.png").write_bytes(first)
    examination = check(tmp_path, split_seed=2)
    source = build_source(ImageFolder(name="folder", root=tmp_path, split_seed=2))
    copies = {
        split: sum("again" in samples.name(i) or samples.name(i).endswith("ant/000.png") for i in range(len(samples)))
        for split, samples in source.splits.items()
    }
    assert copies["test"] > 1  # or the test shows nothing
    across = found(examination, "duplicates-across-splits")
    assert across.severity == "error"
    assert f"{copies['test']} images of test are also in train" in across.text


def test_each_copy_is_counted_in_whatever_order_the_splits_are_listed():
    images = torch.from_numpy(np.asarray(picture(0, 0)).transpose(2, 0, 1).copy())[None]
    parts = [
        Arrays(images.repeat(count, 1, 1, 1), torch.zeros(count), split) for split, count in (("test", 3), ("train", 2))
    ]
    split_of = np.array([1, 1, 1, 0, 0], dtype=np.int8)
    collection = Collection(HeldPictures(parts), np.zeros(5, dtype=np.int64), ("ant",), split_of, ("train", "test"))
    pairs = find_pairs(collection, scan.scan(collection.pictures))
    texts = {finding.kind: finding.text for finding in duplicate_findings(collection, pairs)}
    assert texts["duplicates-across-splits"] == "3 images of test are also in train (100 %)"


def test_where_time_is_too_short_a_sample_is_looked_at_and_said_so(clean, monkeypatch):
    monkeypatch.setattr(scan, "READ_S", 0.0)
    monkeypatch.setattr(scan, "LEAST_READ", 90)
    examination = check(clean)
    assert examination.figures["looked_at"] == 90
    assert "90 of 192 looked at (47 %, drawn at random)" in dict(examination.facts)["images"]
    assert worth_attention(examination) == []


def test_no_folder_is_one_finding(tmp_path):
    examination = check(tmp_path / "nowhere")
    assert [finding.kind for finding in examination.findings] == ["no-folder", "refused"]


def test_folders_named_like_splits_are_not_taken_for_classes_in_silence(tmp_path):
    write_split(tmp_path, 10)
    for name, split in zip(sorted(CLASSES), ("Test", "Train", "eval"), strict=True):
        (tmp_path / name).rename(tmp_path / split)
    assert found(check(tmp_path), "splits-taken-for-classes").places == ("Test", "eval", "Train")


# --- listings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train", "validation"), ("train",), ()])
def test_a_listing_is_sorted_by_split_class_and_name(tmp_path, splits):
    for number, split in enumerate(splits or (".",)):
        write_split(tmp_path / split, 4 + number)
    listing = read_folder(tmp_path, val=0.2)
    assert listing.class_names == CLASSES
    given = 2 if len(splits) == 3 else 1 if len(splits) == 2 else 0
    assert listing.held_out == dict([("val", 0.2), ("test", 0.15)][given:])
    assert listing.findings == () or {finding.kind for finding in listing.findings} == {"split-held-out"}
    expected = [
        (f"{split}/{name}/{number:03}.png".removeprefix("./"), label, code)
        for code, split in enumerate(splits or (".",))
        for label, name in enumerate(CLASSES)
        for number in range(4 + code)
    ]
    assert [path.decode() for path in listing.paths.tolist()] == [path for path, _, _ in expected]
    assert listing.labels.tolist() == [label for _, label, _ in expected]
    assert listing.split_of.tolist() == [code for _, _, code in expected]


def write_list(root: Path, lines: list[str]) -> ImageCsv:
    (root / "list.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    return ImageCsv(name="image_csv", file=root / "list.csv", split_column="split")


def test_a_clean_csv_raises_no_alarm_and_is_listed_in_its_order(clean):
    lines = [
        f"{path.relative_to(clean)},{path.parent.name},{path.relative_to(clean).parts[0]}"
        for path in sorted(clean.rglob("*.png"), reverse=True)
    ]
    config = write_list(clean, lines)
    listing = read_image_csv(config.file, split_column="split")
    assert [path.decode() for path in listing.paths.tolist()] == [line.split(",")[0] for line in lines]
    assert [CLASSES[label] for label in listing.labels.tolist()] == [line.split(",")[1] for line in lines]
    assert [SPLITS[code] for code in listing.split_of.tolist()] == [line.split(",")[2] for line in lines]
    assert worth_attention(examine(config, regression=False)) == []
    config.file.unlink()


def test_all_faults_of_a_csv_are_found_in_one_pass(tmp_path):
    write_clean(tmp_path)
    lines = [
        f"{path.relative_to(tmp_path)},{path.parent.name},{path.relative_to(tmp_path).parts[0]}"
        for path in sorted(tmp_path.rglob("*.png"))
    ]
    lines += ["train/ant/none.png,ant,train", f"{lines[0].split(',')[0]},bee,train", "train/ant/001.png,ant,trian",
              "train/ant/002.png,,train", "train/ant/003.png,ant,train,too many"]  # fmt: skip
    examination = examine(write_list(tmp_path, lines), regression=False)
    assert found(examination, "csv").severity == "error"  # the line that is too long
    assert found(examination, "missing-image").places == ("line 194: train/ant/none.png",)
    assert found(examination, "unknown-split").places == ("line 196: 'trian'",)
    assert found(examination, "no-label").places == ("line 197: train/ant/002.png",)
    assert "another label" in found(examination, "listed-twice").text
    assert found(examination, "refused").severity == "error"
