"""The data sets a YAML can name. No torch in here.

Each class is one kind of source, which sources/build.py reads into a `Source`: the splits with their samples, and the
`DataInfo` found by looking at them.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from mlcli.schema import Address, ConfigPath, Seed, Strict

Share = Annotated[float, Field(ge=0, lt=1)]
Channels = Literal[1, 3]
Side = Annotated[int, Field(gt=0, le=16_384)]
"""Of pictures, in pixels; a square of this side has three times the pixels that are read of any file."""


def _pattern(text: str) -> str:
    if not 0 < len(text) <= 4096:
        raise ValueError("a name or pattern of shards in shards has 1 to 4,096 letters")
    return text


def _label(text: str) -> str:
    if not re.fullmatch(r"cls|txt|json\..{1,200}", text):
        raise ValueError(f"label is cls, txt or json.KEY (an entry, such as json.class), not {text!r}")
    return text


ShardsOfSplits = dict[Literal["train", "val", "test"], Annotated[str, AfterValidator(_pattern)]]


class Splits(Strict):
    """Division of samples without a given split: stratified by class, and the same for the same seed."""

    val: Share = 0.15
    """Share of the samples held out for validation where the data set names none."""
    test: Share = 0.15
    """Share of the samples held out for the final test where the data set names none."""
    split_seed: Seed = 0
    """Seed of the division into splits; independent of train.seed, so that runs stay comparable."""

    @model_validator(mode="after")
    def some_are_left_to_train_on(self):
        if self.val + self.test >= 1:
            raise ValueError(f"val ({self.val}) and test ({self.test}) leave nothing to train on")
        return self


class Digits(Splits):
    """1,797 handwritten digits, 8x8 pixels, grey (scikit-learn's copy of the UCI test set); included, no download."""

    name: Literal["digits"]
    test: Share = 0.2
    """Share of the samples held out for the final test."""


class TorchvisionSet(Strict):
    """MNIST and its relatives, CIFAR and SVHN, read from a folder in their original file formats."""

    name: Literal["mnist", "fashion_mnist", "kmnist", "emnist", "cifar10", "cifar100", "svhn"]
    root: ConfigPath = Field(default="data", validate_default=True)
    """Folder that holds the data set's files, as torchvision lays them out."""
    download: bool = False
    """Whether missing files may be fetched from the network."""
    emnist_split: Literal["byclass", "bymerge", "balanced", "letters", "digits", "mnist"] = "balanced"
    """One of EMNIST's six label sets; other data sets ignore it."""
    val: Share = 0.1
    """Share of the official training set held out for validation; the official test set is the test split."""
    split_seed: Seed = 0
    """Seed that chooses the samples held out; independent of train.seed."""


class OwnFiles(Splits):
    """Keys shared by data that a person brings, in which samples may occur more than once."""

    duplicates: Literal["keep", "one_split", "drop"] = "keep"
    """Treatment of pictures saved twice and of equal rows: kept as they are; brought into one split together (of given
    splits, the one that is held out), so that none is trained on and tested on; or left out but for one."""


class ImageFiles(OwnFiles):
    """Keys shared by the sources of image files."""

    image_size: Side | tuple[Side, Side] | None = None
    """Side, or height and width, in pixels that each image is brought to; null if all are of one size already."""
    fit: Literal["crop", "stretch", "pad"] = "crop"
    """Resizing: crop (shorter side resized, middle kept), stretch (to the shape), pad (longer side, grey bars)."""
    channels: Channels = 3
    """3 for colour, 1 for grey."""
    normalize: Literal["train", "imagenet"] = "train"
    """Mean and standard deviation from the training split, or ImageNet's, which pretrained weights expect."""
    bad_images: Literal["error", "skip"] = "error"
    """Treatment of unreadable images: stop with the file's name, or leave them out and list them."""
    max_bad_share: Share = 0.01
    """With skip: the share of unreadable images above which it is an error all the same."""


class ImageFolder(ImageFiles):
    """A folder per class: root/train/cat/*.jpg with val/ and test/ next to train/, or root/cat/*.jpg to be split."""

    name: Literal["folder"]
    root: ConfigPath
    """The folder. Without val/ or test/ in it, `val` and `test` are the shares split off."""


class ImageCsv(ImageFiles):
    """A CSV file with a column of image paths and a column of labels."""

    name: Literal["image_csv"]
    file: ConfigPath
    """The CSV file, with a header line."""
    root: ConfigPath | None = None
    """Folder that the paths are relative to; null for the CSV file's own."""
    path_column: str = "path"
    """Column of image paths."""
    label_column: str | Annotated[tuple[str, ...], Field(min_length=2)] = "label"
    """Column of labels; of one-hot labels all columns, one of which is 1 in each row: [cat, dog, owl]."""
    split_column: str | None = None
    """Column of train, val or test; null to split by `val` and `test`."""


class ImageShards(ImageFiles):
    """Tar shards as of WebDataset, read by position without unpacking: cat/7.jpg beside cat/7.cls, its label."""

    name: Literal["shards"]
    root: Address | ConfigPath
    """The folder of the .tar files, one of them, or an address (http://, s3://, gs://; needs mlcli[remote]). A file
    classes.txt beside them names the classes, a line each, of labels that are numbers."""
    shards: ShardsOfSplits | None = None
    """Shards of each split, by name: {train: "a-{000..146}.tar", val: "b-*.tar"}. null to go by their names and
    folders, as train-000.tar and val/7.tar; without a split among them, `val` and `test` are the shares split off."""
    label: Annotated[str, AfterValidator(_label)] | None = None
    """Member with the label: cls or txt, which hold a word or number; or json.KEY, an entry of a JSON object. null for
    the one of these that the first sample has, of JSON the entry `label`."""


class FeatureSelection(Strict):
    """Keep the features that are most informative about the target, judged on the training split only."""

    method: Literal["mutual_info", "univariate"] = "mutual_info"
    """mutual_info finds any dependence; univariate is the F-test, which finds linear ones and is faster."""
    keep: PositiveInt
    """Number of features (after one-hot encoding) that are kept."""


class TableFile(OwnFiles):
    """A CSV file of numbers and categories, one sample a row."""

    holds_data = frozenset({"missing_values"})
    name: Literal["csv"]
    file: ConfigPath
    """The CSV file, with a header line."""
    target: str | Annotated[tuple[str, ...], Field(min_length=2)]
    """Column to predict; of one-hot labels all columns, one of which is 1 in each row: [cat, dog, owl]."""
    drop: tuple[str, ...] = ()
    """Columns that are not used."""
    categorical: tuple[str, ...] = ()
    """Columns of numbers that are to be read as categories; columns of text are categories anyway."""
    split_column: str | None = None
    """Column of train, val or test; null to split by `val` and `test`."""
    decimal: Literal["auto", "point", "comma"] = "auto"
    """Decimal mark of the numbers: auto reads 3.1, and 3,1 where it cannot be three thousand one hundred."""
    missing_values: tuple[str | float, ...] = ()
    """Cells that hold no value, besides empty ones, NA, null and the like: [-999, "not asked"]. In new rows too."""
    missing_target: Literal["error", "drop"] = "error"
    """Treatment of rows without a value to predict: an error, or left out."""
    select: FeatureSelection | None = None
    """Keep only the most telling features; null for all."""


class EmbeddedTable(Splits):
    """A table that comes with scikit-learn; no download."""

    name: Literal["iris", "wine", "breast_cancer", "diabetes"]
    select: FeatureSelection | None = None
    """Keep only the most telling features; null for all."""


class ClassificationTable(EmbeddedTable):
    """Iris (4 features, 3 classes), wine (13, 3) or breast cancer (30, 2) from scikit-learn; no download."""

    name: Literal["iris", "wine", "breast_cancer"]  # type: ignore[assignment]


class RegressionTable(EmbeddedTable):
    """Diabetes (442 people, 10 features, disease progression after a year) from scikit-learn; no download."""

    name: Literal["diabetes"]  # type: ignore[assignment]


class Xor(Strict):
    """The exclusive or: four points no straight line separates (Minsky & Papert 1969). Every split holds all four."""

    name: Literal["xor"]
    repeats: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Number of copies of each of the four points."""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of Gaussian noise on the coordinates, drawn anew for each split."""
    split_seed: Seed = 0
    """Seed of the noise."""


ClassificationData = Annotated[
    Digits | TorchvisionSet | ImageFolder | ImageCsv | ImageShards | TableFile | ClassificationTable | Xor,
    Field(discriminator="name"),
]
RegressionData = Annotated[TableFile | RegressionTable, Field(discriminator="name")]
