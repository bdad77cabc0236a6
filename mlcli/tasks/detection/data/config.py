"""The data section of a detection YAML: annotated pictures in four formats, and scenes that are generated.

Plain data without torch; `build.py` reads what they describe.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from mlcli.data.config import ShardsOfSplits, Share, Splits
from mlcli.schema import Address, ConfigPath, Seed

STRIDES = (4, 8, 16, 32)
"""Of the compact backbone, in pixels; the coarsest divides the sides of its input."""
Side = Annotated[int, Field(ge=STRIDES[-1], le=16_384, multiple_of=STRIDES[-1])]


def side_unit(image_size: Sequence[int]) -> int:
    """Return what the longer side of inputs of this shape is a multiple of, at any size whose sides both fit."""
    return max(image_size) // math.gcd(*(length // STRIDES[-1] for length in image_size))


class AnnotatedImages(Splits):
    """Keys that all sources of annotated pictures share."""

    test: Share = 0.0
    """Share of the samples held out for the final test where the data set names none."""
    image_size: Side | tuple[Side, Side] = 320
    """Side, or height and width, in pixels that pictures are brought to; multiples of 32, the coarsest stride."""
    fit: Literal["pad", "stretch"] = "pad"
    """pad: longer side resized, grey bars (letterbox); stretch: to the shape, aspect ratio lost (as in SSD)."""
    rectangular: bool | Literal["train"] = False
    """Measure and predict without the grey bars of `pad`, each picture at its own aspect ratio, with others of like
    shape: both sides are brought to multiples of 32 only. true: training sees whole inputs; train: it does so too."""
    normalize: Literal["train", "imagenet"] = "train"
    """Mean and standard deviation from the training split, or ImageNet's, which pretrained weights expect."""
    on_invalid: Literal["error", "drop", "fix"] = "error"
    """Treatment of faulty annotations: stop with all faults listed; drop the box; or fix it where that is possible
    (clip to the image, swap corners, remove a duplicate) and drop it where not. Either way it is counted."""
    max_objects: PositiveInt | None = None
    """Most objects kept of one picture while training; null for the most that any picture has, mosaics cut to it."""

    @model_validator(mode="after")
    def there_are_bars(self):
        if self.rectangular and self.fit == "stretch":
            raise ValueError("rectangular leaves grey bars out, and fit: stretch has none; use fit: pad")
        return self


class Scenes(AnnotatedImages):
    """Handwritten digits (scikit-learn's) pasted at random sizes onto two photographs; included, no download.

    Made anew from the seed, with exact boxes and masks.
    """

    name: Literal["scenes"]
    image_size: Side | tuple[Side, Side] = 128
    images: Annotated[int, Field(ge=20, le=1_000_000)] = 1000
    """Training pictures; a fifth as many are made for validation, and again for the test."""
    most_digits: Annotated[int, Field(ge=1, le=100)] = 5
    """Digits in a picture: 1 to this many."""
    scene_seed: Seed = 0
    """Seed of the scenes."""


class Voc(AnnotatedImages):
    """Pascal VOC: one XML file a picture (Everingham et al. 2010)."""

    name: Literal["voc"]
    root: ConfigPath
    """Folder that holds the data set."""
    images: str = "JPEGImages"
    """Folder of pictures below root."""
    annotations: str = "Annotations"
    """Folder of XML files below root."""
    splits: str | None = "ImageSets/Main"
    """Folder below root with train.txt, val.txt, test.txt; null, or no such folder, to divide by `val` and `test`."""
    split_file: ConfigPath | dict[Literal["train", "val", "test"], ConfigPath] | None = None
    """Lists of pictures instead of such a folder: a CSV file with the columns filename and split; or a file for each
    split, {train: a.csv, test: b.csv}, CSV with the column filename or text with a name a line."""
    one_based: bool = False
    """Whether the first pixel is numbered 1, as in the original VOC; LabelImg and similar tools number it 0."""
    difficult: Literal["ignore", "use"] = "ignore"
    """Objects marked difficult: neither trained on nor counted, as in VOC; or used like the others."""


class Coco(AnnotatedImages):
    """COCO: one JSON file for all pictures of a split, with crowds and masks (Lin et al. 2014)."""

    name: Literal["coco"]
    root: ConfigPath
    """Folder that the pictures' file names are relative to; or that holds those of the splits, such as train2017."""
    train_file: ConfigPath
    """Annotations to train on."""
    val_file: ConfigPath | None = None
    """Annotations for validation; null to hold some of train_file out."""
    test_file: ConfigPath | None = None
    """Annotations for the test; null to hold some of train_file out."""


class YoloTxt(AnnotatedImages):
    """YOLO: one text file a picture, `class x y width height` in shares of the picture; data.yaml names the classes."""

    name: Literal["yolo_txt"]
    file: ConfigPath
    """The data.yaml: path, train, val, test and names; or a text with the name of a class a line, such as classes.txt,
    next to the pictures or to train.txt, which lists them."""


class BoxCsv(AnnotatedImages):
    """A CSV file, one box a row: filename, class, xmin, ymin, xmax, ymax, and, if there, width, height and split."""

    name: Literal["box_csv"]
    file: ConfigPath
    """The CSV file, with a header line. A row with a filename only is a picture without objects."""
    val_file: ConfigPath | None = None
    """Another one for validation; null to go by the column split, or to hold some of `file` out."""
    test_file: ConfigPath | None = None
    """Another one for the test; null to go by the column split, or to hold some of `file` out."""
    root: ConfigPath | None = None
    """Folder that the file names are relative to; null for each CSV file's own."""


class AnnotatedShards(AnnotatedImages):
    """Tar shards as of WebDataset, read by position: 7.jpg beside 7.json, its objects as COCO has them."""

    name: Literal["shards"]
    root: Address | ConfigPath
    """The folder of the .tar files, one of them, or an address (http://, s3://, gs://; needs mlcli[remote]). A file
    categories.json beside them is COCO's list of categories; without it objects name their `category`."""
    shards: ShardsOfSplits | None = None
    """Shards of each split, by name: {train: "a-{000..146}.tar", val: "b-*.tar"}. null to go by their names and
    folders, as train-000.tar and val/7.tar; without a split among them, `val` and `test` are the shares split off."""


AnnotationFiles = Voc | Coco | YoloTxt | BoxCsv | AnnotatedShards
DetectionData = Annotated[Scenes | Voc | Coco | YoloTxt | BoxCsv | AnnotatedShards, Field(discriminator="name")]
