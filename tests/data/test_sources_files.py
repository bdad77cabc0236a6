"""Image folders and CSV files of images: every layout, every fault, with tiny files written here."""

import os
import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mlcli.data import inspection
from mlcli.data.config import ImageCsv, ImageFolder
from mlcli.data.decode import Preparation
from mlcli.data.source import ImageFilesSamples
from mlcli.data.sources.build import build_source
from mlcli.data.sources.image_folder import read_folder
from mlcli.data.splits import named_split
from mlcli.errors import DataError

CLASSES = ("ant", "bee", "cat")


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_classes(folder: Path, count: int = 10, classes=CLASSES, extension: str = "png", **options) -> Path:
    for label, name in enumerate(classes):
        for number in range(count):
            write_image(folder / name / f"{number:02}.{extension}", seed=100 * label + number, **options)
    return folder


def folder(root: Path, **options):
    return build_source(ImageFolder(name="folder", root=root, **options))


def sizes(source) -> dict[str, int]:
    return {split: len(samples) for split, samples in source.splits.items()}


def names(samples) -> list[str]:
    return [samples.name(index) for index in range(len(samples))]


def fault(root: Path, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        folder(root, **options)
    assert caught.value.code == 4
    assert caught.value.where
    assert caught.value.fix
    return caught.value


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_class_folders_are_divided(tmp_path):
    source = folder(write_classes(tmp_path), val=0.2, test=0.1)
    assert sizes(source) == {"train": 21, "val": 6, "test": 3}
    assert source.info.class_names == CLASSES
    assert source.info.input_shape == (3, 10, 12)
    assert source.info.preparation == {"image_size": [10, 12], "fit": "crop", "channels": 3}
    everything = [name for samples in source.splits.values() for name in names(samples)]
    assert sorted(everything) == sorted(str(path) for path in tmp_path.rglob("*.png"))
    for samples in source.splits.values():
        assert [Path(name).parent.name for name in names(samples)] == [CLASSES[label] for label in samples.targets]
        assert np.bincount(samples.targets).tolist() == [len(samples) // 3] * 3


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_given_splits_are_used(tmp_path, val):
    for split, count in (("train", 5), (val, 2), ("test", 3)):
        write_classes(tmp_path / split, count)
    source = folder(tmp_path)
    assert sizes(source) == {"train": 15, "val": 6, "test": 9}
    assert all(f"/{val}/" in name for name in names(source.splits["val"]))
    assert source.notes == ()


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", "Validation", "Testing"),
        ("TRAIN", "DEV", "TEST"),
        ("train_set", "valid-set", "test set"),
        ("seg_train", "val_images", "holdout"),
        ("train2017", "val2017", "eval"),
    ],
)
def test_other_spellings_of_splits_are_splits_and_said(tmp_path, train, val, test):
    for name, count in ((train, 5), (val, 2), (test, 3)):
        write_classes(tmp_path / name, count)
    source = folder(tmp_path)
    assert sizes(source) == {"train": 15, "val": 6, "test": 9}
    assert source.info.class_names == CLASSES
    assert f"{train}/: train" in str(source.notes)


def test_folders_of_splits_without_class_folders_are_no_classes(tmp_path):
    write_classes(tmp_path, 5, ("Train", "Test"))
    assert "look like splits" in fault(tmp_path).what


def test_words_that_name_no_split():
    assert [
        word for word in ("trainer", "train station", "devil", "contest", "values", "", "a") if named_split(word)
    ] == []


def test_pictures_that_are_passed_over_are_told_by_their_endings(tmp_path):
    root = write_classes(tmp_path, 5)
    first, second = (root / name for name in CLASSES[:2])
    for path in first.iterdir():
        path.rename(path.with_suffix(".heic"))
    assert f"{CLASSES[0]} (5 .heic)" in fault(root).what
    for number, path in enumerate(sorted(first.iterdir())):
        path.rename(path.with_suffix(".png" if number < 4 else ""))
    next(iter(second.iterdir())).rename(second / "a.png.1")
    notes = "; ".join(folder(root, val=0.2, test=0).notes)
    assert "do not end as pictures" in notes
    assert "1 without an ending" in notes
    assert "1 .1, such as" in notes


def test_missing_split_is_held_out_of_train(tmp_path):
    write_classes(tmp_path / "train", 10)
    write_classes(tmp_path / "test", 2)
    source = folder(tmp_path, val=0.2)
    assert sizes(source) == {"train": 24, "val": 6, "test": 6}
    assert all("/train/" in name for name in names(source.splits["val"]))
    assert "there is no val/ folder: 0.2 of train/ is held out for it" in source.notes
    assert sizes(folder(tmp_path, val=0)) == {"train": 30, "test": 6}


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_without_class_folders_is_none_and_said(tmp_path, split):
    write_classes(tmp_path / "train", 10)
    write_image(tmp_path / split / "a.png")
    source = folder(tmp_path, val=0.2, test=0.2)
    assert sizes(source) == {"train": 18, "val": 6, "test": 6}
    assert any(note.startswith(f"{split}/ has no class folders in it") for note in source.notes)


def test_a_folder_around_the_data_set_is_no_class(tmp_path):
    write_classes(tmp_path / "archive" / "pets")
    error = fault(tmp_path)
    assert error.what.startswith("there is one folder only, archive/, and 3 folders in archive/pets/: ant, bee")
    assert error.fix == f"give the folder that holds the classes: {tmp_path / 'archive' / 'pets'}"
    assert sizes(folder(tmp_path / "archive" / "pets"))["train"] == 22
    write_classes(tmp_path / "parted" / "all" / "Train", 4)
    assert f"{tmp_path / 'parted' / 'all'}" in fault(tmp_path / "parted").fix


@pytest.mark.skipif(os.name == "nt", reason="links need rights")
@pytest.mark.parametrize(("link", "to", "said"), [("bug", "ant", "bug = ant"), ("all", ".", "all = the folder it")])
def test_links_to_other_classes_are_refused(tmp_path, link, to, said):
    write_classes(tmp_path)
    (tmp_path / link).symlink_to(to)
    assert said in fault(tmp_path).what


def test_folders_that_systems_leave_behind_are_no_classes(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "__MACOSX" / "ant").mkdir(parents=True)
    write_image(tmp_path / "@eaDir" / "thumb.png")
    write_image(tmp_path / "ant" / "@eaDir" / "thumb.png")
    assert sum(sizes(folder(tmp_path)).values()) == 30


def test_a_class_may_be_called_train(tmp_path):
    source = folder(write_classes(tmp_path, 5, ("car", "plane", "train")), val=0.2, test=0.2)
    assert source.info.class_names == ("car", "plane", "train")


def test_splits_do_not_depend_on_the_order_of_files_or_anything_but_the_seed(tmp_path):
    first = write_classes(tmp_path / "a")
    second = tmp_path / "b"
    for path in sorted(first.rglob("*.png"), reverse=True):
        (second / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, second / path.parent.name)
    one, two, other = folder(first), folder(second), folder(first, split_seed=1)
    for split in ("train", "val", "test"):
        assert [name.replace(str(first), "") for name in names(one.splits[split])] == [
            name.replace(str(second), "") for name in names(two.splits[split])
        ]
        assert names(one.splits[split]) != names(other.splits[split])


def test_extensions_hidden_files_and_other_files(tmp_path):
    kinds = ["jpg", "JPEG", "png", "bmp", "gif", "webp", "tif", "tiff", "ppm", "PGM"]
    for name in CLASSES:
        for number, kind in enumerate(kinds):
            write_image(tmp_path / name / f"{number}.{kind}")
    (tmp_path / "ant" / ".hidden.png").write_bytes(b"")
    (tmp_path / "ant" / "notes.txt").write_text("")
    (tmp_path / ".git").mkdir()
    write_image(tmp_path / "loose.png")
    source = folder(tmp_path, channels=1)
    assert sum(sizes(source).values()) == 30
    assert source.notes == (
        "1 image lies outside of the class folders and will not be used: loose.png",
        "files that are no images are not used: ant: 1 .txt",
    )


def test_images_in_folders_below_a_class_and_behind_links(tmp_path):
    write_classes(tmp_path / "data")
    write_image(tmp_path / "data" / "ant" / "deep" / "er" / "x.png")
    write_image(tmp_path / "elsewhere" / "y.png")
    (tmp_path / "data" / "bee" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "cat" / "loop").symlink_to(tmp_path / "data" / "cat")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data" / "bee")
    found = [name for samples in folder(tmp_path / "data").splits.values() for name in names(samples)]
    assert len(found) == len(set(found))
    assert sum(name.endswith("deep/er/x.png") for name in found) == 1
    assert sum(name.endswith("linked/y.png") for name in found) == 1
    assert len(found) == 32


def test_names_that_are_no_text_can_be_read_and_printed(tmp_path):
    write_classes(tmp_path)
    os.rename(tmp_path / "ant" / "00.png", os.fsencode(tmp_path / "ant") + b"/\xff.png")
    source = folder(tmp_path, val=0, test=0)
    train = source.splits["train"]
    (index,) = [index for index, name in enumerate(names(train)) if "xff" in name]
    assert train.name(index).encode().endswith(b"\\xff.png")
    assert train.read(np.array([index])).shape == (1, 3, 10, 12)


# --- faults ----------------------------------------------------------------------------------------------------------


def test_copies_of_a_picture_are_kept_brought_together_or_dropped(tmp_path):
    for path in write_classes(tmp_path, 10).rglob("*.png"):
        with Image.open(path) as image:  # saved anew and a little brighter
            image.resize((24, 20)).point(lambda level: min(255, level + 2)).save(path.with_suffix(".bmp"))

    def originals(way: str) -> dict[str, list[str]]:
        source = folder(tmp_path, image_size=8, duplicates=way)
        return {split: sorted(name[:-4] for name in names(samples)) for split, samples in source.splits.items()}

    kept, together, dropped = map(originals, ("keep", "one_split", "drop"))
    assert sum(map(len, kept.values())) == sum(map(len, together.values())) == 60
    assert set(kept["train"]) & set(kept["test"])
    for split, found in together.items():
        assert found[::2] == found[1::2], f"{split} holds a picture without its copy"
    assert sum(map(len, dropped.values())) == 30
    assert len({name for found in dropped.values() for name in found}) == 30


def test_of_copies_in_given_splits_the_held_out_one_decides(tmp_path):
    write_classes(tmp_path / "train", 6)
    write_classes(tmp_path / "test", 2)  # the same pictures as the first of the others
    leaked = {str(path) for number in (0, 1) for path in (tmp_path / "train").rglob(f"0{number}.png")}

    def read(way: str) -> tuple[set[str], set[str], str]:
        source = folder(tmp_path, val=0, image_size=8, duplicates=way)
        return {*names(source.splits["train"])}, {*names(source.splits["test"])}, "\n".join(source.notes)

    train, test, _ = read("keep")
    assert leaked < train
    assert len(leaked) == len(test) == 6
    left, held_out, notes = read("one_split")
    assert train - left == held_out - test == leaked
    assert "6 were in another" in notes
    left, held_out, notes = read("drop")
    assert (train - left, held_out) == (leaked, test)
    assert "6 images are left out" in notes


def test_root_that_is_missing_or_a_file(tmp_path):
    absent = fault(tmp_path / "$HOME")
    assert "no such folder" in absent.what
    assert "$HOME are not expanded" in absent.fix  # why not, and the key that says another
    assert "set data.root" in absent.fix
    assert "is a file" in fault(write_image(tmp_path / "a.png")).what


def test_no_images_at_all(tmp_path):
    assert "no class folders" in fault(tmp_path).what
    write_image(tmp_path / "only.png")
    assert "no class folders" in fault(tmp_path).what


def test_empty_class_folders_are_all_named(tmp_path):
    write_classes(tmp_path)
    for name in ("dog", "eel"):
        (tmp_path / name).mkdir()
    (tmp_path / "dog" / "readme.txt").write_text("")
    error = fault(tmp_path)
    assert error.what == "2 class folders hold no images: dog (1 .txt), eel"
    assert error.where == str(tmp_path)


def test_class_present_in_one_split_only(tmp_path):
    write_classes(tmp_path / "train", 3)
    write_classes(tmp_path / "test", 3, ("ant", "bee", "dog"))
    error = fault(tmp_path, val=0)
    assert "train has no images of 'dog'" in error.what
    assert "test has no images of 'cat'" in error.what


def test_one_class_only(tmp_path):
    assert "one class only, 'ant'" in fault(write_classes(tmp_path, classes=("ant",))).what


def test_class_too_small_to_be_divided(tmp_path):
    write_classes(tmp_path)
    write_image(tmp_path / "dog" / "1.png")
    assert "'dog' has 1" in fault(tmp_path).what


def test_two_validation_folders(tmp_path):
    for split in ("train", "val", "valid"):
        write_classes(tmp_path / split, 2)
    assert "both val/ and valid/" in fault(tmp_path).what


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_unreadable_folder_as_somebody_else():
    root = Path(tempfile.mkdtemp())
    try:
        write_classes(root)
        root.chmod(0o755)
        (root / "bee").chmod(0o000)
        os.seteuid(65534)
        error = fault(root)
        kinds = [finding.kind for finding in read_folder(root).findings]
    finally:
        os.seteuid(0)
        shutil.rmtree(root)
    assert f"(Permission denied): {root / 'bee'}" in error.what
    assert "empty-class" not in kinds
    assert error.where == str(root)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "bee").chmod(0o000)
    error = fault(tmp_path)
    kinds = [finding.kind for finding in read_folder(tmp_path).findings]
    (tmp_path / "bee").chmod(0o755)
    assert f"(Permission denied): {tmp_path / 'bee'}" in error.what
    assert "empty-class" not in kinds
    assert error.where == str(tmp_path)


# --- sizes, damage, statistics ---------------------------------------------------------------------------------------


def test_different_sizes_are_listed_with_a_proposal(tmp_path):
    write_classes(tmp_path)
    odd = write_image(tmp_path / "ant" / "odd.png", size=(30, 40))
    error = fault(tmp_path)
    assert "12x10 (30), 30x40 (1)" in error.what
    assert str(odd) in error.where
    assert "data.image_size=10" in error.fix
    assert folder(tmp_path, image_size=10).info.input_shape == (3, 10, 10)
    assert folder(tmp_path, image_size=(8, 16), channels=1).info.input_shape == (1, 8, 16)


def test_samples_for_inspection_are_drawn_without_repeats():
    drawn = inspection.drawn(100, 60, seed=0)
    assert len(drawn) == 60
    assert (np.diff(drawn) > 0).all()
    assert not np.array_equal(drawn, inspection.drawn(100, 60, seed=1))


def test_size_that_the_sample_missed_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "MAX_HEADERS", 6)
    monkeypatch.setattr(inspection, "MAX_COUNTED", 6)
    write_classes(tmp_path)
    source = folder(tmp_path, val=0, test=0)
    assert any("come from 6 of 30 training images" in note for note in source.notes)
    for path in tmp_path.rglob("*.png"):
        write_image(path, size=(5, 5))
    with pytest.raises(DataError, match="5x5 pixels") as caught:
        source.splits["train"].read(np.array([4]))
    assert caught.value.where == source.splits["train"].name(4)


def test_damaged_image_is_named_when_read(tmp_path):
    write_classes(tmp_path)
    bad = tmp_path / "cat" / "03.png"
    bad.write_bytes(bad.read_bytes()[:80])
    error = fault(tmp_path, image_size=8, val=0, test=0)
    assert error.where == str(bad)
    source = folder(tmp_path, image_size=8, val=0, test=0, normalize="imagenet")
    index = names(source.splits["train"]).index(str(bad))
    with pytest.raises(DataError, match="damaged"):
        source.splits["train"].read(np.array([0, index]))


def test_damaged_images_are_left_out_and_listed(tmp_path):
    write_classes(tmp_path, 20)
    for bad in ("ant/01.png", "cat/03.png"):
        (tmp_path / bad).write_bytes(b"")
    source = folder(tmp_path, bad_images="skip", max_bad_share=0.05)
    assert sum(sizes(source).values()) == 58
    assert not any("ant/01" in name for samples in source.splits.values() for name in names(samples))
    (note,) = source.notes
    assert "left out 2 of 60 images" in note
    assert str(tmp_path / "ant/01.png") in note
    error = fault(tmp_path, bad_images="skip", max_bad_share=0.02)
    assert "2 of 60 images cannot be read" in error.what
    assert "cat/03.png" in error.where


def test_class_that_only_has_damaged_images(tmp_path):
    write_classes(tmp_path, 20)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "1.png").write_bytes(b"")
    assert "no images of 'dog'" in fault(tmp_path, bad_images="skip", max_bad_share=0.5).what


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_those_of_the_prepared_training_pixels(tmp_path, channels):
    source = folder(write_classes(tmp_path, 50), image_size=6, channels=channels)
    train = source.splits["train"]
    pixels = train.read(np.arange(len(train))).double() / 255
    assert source.info.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist())
    assert source.info.std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist())


def test_imagenet_statistics(tmp_path):
    write_classes(tmp_path)
    assert folder(tmp_path, normalize="imagenet").info.mean == (0.485, 0.456, 0.406)
    assert folder(tmp_path, normalize="imagenet", channels=1).info.mean == pytest.approx((0.449,), abs=1e-4)


def test_constant_images_do_not_divide_by_zero(tmp_path):
    for name in CLASSES:
        for number in range(5):
            path = tmp_path / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 4), (10, 20, 30)).save(path)
    assert folder(tmp_path, val=0.2, test=0.2).info.std == (1.0, 1.0, 1.0)


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def samples(tmp_path) -> ImageFilesSamples:
    paths = []
    for number, size in enumerate([(40, 20), (20, 40), (30, 30)]):
        paths.append(write_image(tmp_path / f"{number}.png", number, size).name.encode())
    return ImageFilesSamples(str(tmp_path), np.array(paths), torch.tensor([0, 1, 1]), Preparation((10, 10)))


def test_samples_are_read_in_the_order_asked_for(samples):
    batch = samples.read(np.array([2, 0, 2]))
    assert batch.dtype == torch.uint8
    assert batch.shape == (3, 3, 10, 10)
    assert torch.equal(batch[0], batch[2])
    assert torch.equal(batch[1], samples.read(np.array([0]))[0])
    assert samples.read(np.array([], dtype=int)).shape == (0, 3, 10, 10)


def test_crops_in_shares_are_regions_in_pixels(samples):
    indices = np.array([0, 1])
    crops = np.array([[0.5, 0.25, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]], dtype=np.float32)  # top, left, height, width
    found = samples.read_crops(indices, crops)
    for index, crop, image in zip(indices, crops, found, strict=True):
        region = np.empty_like(image.numpy())
        samples.preparation.decode_crop(samples.path(index), crop, region)
        assert torch.equal(image, torch.from_numpy(region))
    with Image.open(samples.path(0)) as image:
        expected = np.asarray(image.crop((10, 10, 30, 20)).resize((10, 10), Image.Resampling.BILINEAR))
    assert np.abs(found[0].permute(1, 2, 0).numpy().astype(int) - expected).mean() < 8  # differs along the cut only


def test_sizes_and_aspect_ratios(samples):
    assert samples.sizes(np.array([0, 1, 2])).tolist() == [[40, 20], [20, 40], [30, 30]]
    assert samples.aspect_ratios(np.array([1, 0])).tolist() == [0.5, 2.0]
    assert samples.aspect_ratios(np.array([1, 0])).dtype == np.float32


def test_samples_can_be_sent_to_a_process_and_hold_no_python_list(samples):
    copy = pickle.loads(pickle.dumps(samples))
    assert torch.equal(copy.read(np.array([1])), samples.read(np.array([1])))
    assert samples.paths.dtype.kind == "S"


def test_torch_loader_with_workers(samples):
    loader = torch.utils.data.DataLoader(
        range(3), batch_size=None, num_workers=1, collate_fn=lambda index: samples.read(np.array([index]))
    )
    assert torch.equal(torch.cat(list(loader)), samples.read(np.arange(3)))


# --- CSV of images ---------------------------------------------------------------------------------------------------


def write_csv(root: Path, lines: list[str], name: str = "labels.csv") -> Path:
    path = root / name
    path.write_text("\n".join(lines) + "\n")
    return path


def image_lines(root: Path, count: int = 10) -> list[str]:
    write_classes(root, count)
    return [f"{name}/{number:02}.png,{name}" for name in CLASSES for number in range(count)]


def csv_fault(file: Path, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        build_source(ImageCsv(name="image_csv", file=file, **options))
    assert caught.value.code == 4
    return caught.value


def test_csv_of_images(tmp_path):
    file = write_csv(tmp_path, ["path,label", *image_lines(tmp_path)])
    source = build_source(ImageCsv(name="image_csv", file=file))
    assert source.info.class_names == CLASSES
    assert sum(sizes(source).values()) == 30
    for samples in source.splits.values():
        assert [Path(name).parent.name for name in names(samples)] == [CLASSES[label] for label in samples.targets]


def test_csv_with_other_columns_root_and_splits(tmp_path):
    lines = image_lines(tmp_path / "images", 4)
    words = ["train", "Train", "valid", "TEST"]
    rows = [f"{line},{words[number % 4]}" for number, line in enumerate(lines)]
    file = write_csv(tmp_path, ["\ufefffile;kind;part", *(row.replace(",", ";") for row in rows)])
    source = build_source(
        ImageCsv(
            name="image_csv",
            file=file,
            root=tmp_path / "images",
            path_column="file",
            label_column="kind",
            split_column="part",
        )
    )
    assert sizes(source) == {"train": 6, "val": 3, "test": 3}
    assert all(name.endswith("/03.png") for name in names(source.splits["test"]))


def test_csv_faults(tmp_path):
    lines = image_lines(tmp_path)
    error = csv_fault(write_csv(tmp_path, ["path,lable", *lines]))
    assert "no column 'label' (did you mean 'lable'?)" in error.what
    missing = [f"{number}.png,ant" for number in range(7)]
    error = csv_fault(write_csv(tmp_path, ["path,label", *lines, *missing]))
    assert "7 of 37 images are not in" in error.what
    assert "line 32: 0.png" in error.what
    assert "and 2 more" in error.what
    error = csv_fault(write_csv(tmp_path, ["path,label", "ant/00.png,", *lines[1:3], "ant/03.png, "]))
    assert "no label in column 'label': line 2: ant/00.png, line 5: ant/03.png" in error.what
    error = csv_fault(write_csv(tmp_path, ["path,label", *lines, lines[4]]))
    assert "line 32: ant/04.png" in error.what
    error = csv_fault(write_csv(tmp_path, ["path,label", *lines, f"./{lines[4]}"]))
    assert "line 32: ./ant/04.png" in error.what
    error = csv_fault(write_csv(tmp_path, ["path,label", *lines[:9], f"{lines[9].split(',')[0]},nan"]))
    assert ("no label in column 'label': line 11" in error.what, "'nan' is a class" in error.fix) == (True, True)
    bare = write_csv(tmp_path, ["path,label", *(line.replace(".png", "") for line in lines)])
    assert sum(sizes(build_source(ImageCsv(name="image_csv", file=bare, image_size=8))).values()) == 30
    write_image(tmp_path / "ant" / "00.jpg", size=(30, 30))
    assert "1 of 30 images are not in" in csv_fault(bare).what
    windows = write_csv(tmp_path, ["path,label", *(line.replace("/", "\\") for line in lines)])
    assert sizes(build_source(ImageCsv(name="image_csv", file=windows, image_size=8))) == {
        "train": 22, "val": 4, "test": 4}  # fmt: skip
    error = csv_fault(
        write_csv(tmp_path, ["path,label,part", *(f"{line},trian" for line in lines)]), split_column="part"
    )
    assert "30 rows have neither train, val nor test in column 'part': line 2: 'trian'" in error.what
    assert "no such file" in csv_fault(tmp_path / "none.csv").what
    assert "folder" in csv_fault(tmp_path).what


def test_one_hot_labels_of_images(tmp_path):
    rows = [line.split(",") for line in image_lines(tmp_path)]
    kinds = sorted({row[1] for row in rows})
    lines = [",".join([row[0], *(str(int(row[1] == kind)) for kind in kinds)]) for row in rows]
    file = write_csv(tmp_path, [f"path,{','.join(kinds)}", *lines])
    error = csv_fault(file)
    assert f"data.label_column=[{', '.join(kinds)}]" in f"{error.where} {error.fix}"
    source = build_source(ImageCsv(name="image_csv", file=file, image_size=8, label_column=tuple(kinds)))
    assert source.info.class_names == tuple(kinds)
    alone = build_source(ImageCsv(name="image_csv", file=file, image_size=8, label_column=kinds[0]))
    assert any(f"only '{kinds[0]}' is learned" in note for note in alone.notes)
