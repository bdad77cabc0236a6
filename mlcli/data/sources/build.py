"""Build the source of samples of a data section: each config class is matched to its reader here.

What lies in files is read in two steps, so that `data check` and training look at the same: a lenient reader lists the
files or rows and everything that is wrong with them, and a strict one makes samples of that or refuses it.
"""

from pathlib import Path
from typing import Any, assert_never

from mlcli.data.config import (
    ClassificationData,
    Digits,
    EmbeddedTable,
    ImageCsv,
    ImageFiles,
    ImageFolder,
    ImageShards,
    RegressionData,
    TableFile,
    TorchvisionSet,
    Xor,
)
from mlcli.data.source import Source
from mlcli.data.sources.arrays import digits, embedded_table, xor
from mlcli.data.sources.image_files import image_source
from mlcli.data.sources.listing import Listing, read_folder, read_image_csv
from mlcli.data.sources.shards import has_shards, read_shards
from mlcli.data.sources.tables import FeatureTable, read_table, table_source
from mlcli.data.sources.torchvision_sets import torchvision_set
from mlcli.engine.membership import KnownData
from mlcli.errors import ConfigError


def build_source(
    config: ClassificationData | RegressionData, *, regression: bool = False, known: KnownData | None = None
) -> Source:
    """Read a data set. Raises DataError if it is not there or not fit to learn from.

    Args:
        regression: whether a table's target is a number to predict rather than a class.
        known: what a run knows of the data, which are divided as it did. Raises DataError as `KnownData.divide`.
    """
    old = known is not None and known.is_of_old_version
    source = _read(config, regression, None if old else known, centred=not old)
    lies_in_files = isinstance(config, ImageFolder | ImageCsv | ImageShards | TableFile)  # divided as they were read
    return source if known is None or old or lies_in_files else source.divided_as(known)


def _read(
    config: ClassificationData | RegressionData, regression: bool, known: KnownData | None, *, centred: bool
) -> Source:
    match config:
        case Digits():
            return digits(val=config.val, test=config.test, split_seed=config.split_seed)
        case TorchvisionSet():
            return torchvision_set(
                config.name,
                root=config.root,
                download=config.download,
                emnist_split=config.emnist_split,
                val=config.val,
                split_seed=config.split_seed,
            )
        case ImageFolder() | ImageCsv() | ImageShards():
            return listed_source(config, list_images(config), known)
        case TableFile():
            table = list_rows(config, regression=regression, known=known)
            return table_source(table, **selection(config), info=known.info if known else None, centred=centred)
        case EmbeddedTable():
            return embedded_table(
                config.name, val=config.val, test=config.test, split_seed=config.split_seed, **selection(config)
            )
        case Xor():
            return xor(repeats=config.repeats, noise=config.noise, split_seed=config.split_seed)
        case _:
            assert_never(config)


def new_data(
    config: ClassificationData | RegressionData, path: Path, target: str
) -> ImageFolder | ImageCsv | ImageShards | TableFile:
    """Return the section of all labelled data in a folder, shards or a CSV file, of the kind of a run's.

    target: the column to predict of a table that lies in no file. Raises ConfigError for what is of another kind.
    """
    if isinstance(config, Digits | TorchvisionSet | ImageFolder | ImageCsv | ImageShards):
        if has_shards(path):
            label = config.label if isinstance(config, ImageShards) else None
            return ImageShards(name="shards", root=path, label=label, val=0, test=0)
        if path.is_dir():
            return ImageFolder(name="folder", root=path, val=0, test=0)
        section = ImageCsv(name="image_csv", file=path, val=0, test=0)
        if isinstance(config, ImageCsv):
            section = section.model_copy(update=config.model_dump(include={"path_column", "label_column"}))
        return section
    if path.is_dir():
        raise ConfigError("the model takes rows of a table", where=f"--on {path}", fix="give a CSV file")
    section_of_rows = TableFile(name="csv", file=path, target=target, val=0, test=0)
    if isinstance(config, TableFile):
        drop = (*config.drop, *([config.split_column] if config.split_column else []))
        kept = {"target": config.target, "categorical": config.categorical, "drop": drop}
        section_of_rows = section_of_rows.model_copy(update=kept)
    return section_of_rows


def selection(config: TableFile | EmbeddedTable) -> dict[str, Any]:
    """Return the settings of feature selection, as keywords."""
    return config.select.model_dump() if config.select else {}


def list_images(config: ImageFolder | ImageCsv | ImageShards) -> Listing:
    """The image files that a section names, and what is wrong with their layout. Never raises."""
    if isinstance(config, ImageFolder):
        return read_folder(config.root, val=config.val, test=config.test)
    if isinstance(config, ImageShards):
        patterns = {str(split): name for split, name in config.shards.items()} if config.shards else None
        return read_shards(config.root, shards=patterns, label=config.label, val=config.val, test=config.test)
    return read_image_csv(
        config.file,
        root=config.root,
        path_column=config.path_column,
        label_column=config.label_column,
        split_column=config.split_column,
        val=config.val,
        test=config.test,
    )


def listed_source(config: ImageFiles, listing: Listing, known: KnownData | None = None) -> Source:
    """The listed images, read as the section says. Raises DataError if they are not fit to learn from."""
    return image_source(
        listing,
        image_size=config.image_size,
        fit=config.fit,
        channels=config.channels,
        normalize=config.normalize,
        bad_images=config.bad_images,
        max_bad_share=config.max_bad_share,
        split_seed=config.split_seed,
        known=known,
        duplicates=config.duplicates,
    )


def list_rows(config: TableFile, *, regression: bool, known: KnownData | None = None) -> FeatureTable:
    """The rows of the CSV file that a section names, and what is wrong with them. Never raises."""
    return read_table(
        config.file,
        target=config.target,
        regression=regression,
        drop=config.drop,
        categorical=config.categorical,
        split_column=config.split_column,
        val=config.val,
        test=config.test,
        split_seed=config.split_seed,
        known=known,
        duplicates=config.duplicates,
        decimal=config.decimal,
        drop_missing=config.missing_target == "drop",
    )
