"""Build the source of samples of a data section: each config class is matched to its reader here.

What lies in files is read in two steps, so that `data check` and training look at the same: a lenient reader lists the
files or rows and everything that is wrong with them, and a strict one makes samples of that or refuses it.
"""

from pathlib import Path
from typing import assert_never

from mlcli.data import config as c
from mlcli.data.source import Source
from mlcli.data.sources.arrays import digits, embedded_table, xor
from mlcli.data.sources.image_csv import read_image_csv
from mlcli.data.sources.image_files import image_source
from mlcli.data.sources.image_folder import read_folder
from mlcli.data.sources.listing import Listing
from mlcli.data.sources.shards import has_shards, read_shards
from mlcli.data.sources.tables import read_table, table_source
from mlcli.data.sources.torchvision_sets import torchvision_set
from mlcli.engine.membership import KnownData
from mlcli.errors import ConfigError


def build_source(
    config: c.ClassificationData | c.RegressionData, *, regression: bool = False, known: KnownData | None = None
) -> Source:
    """Read a data set. Raises DataError if it is not there or not fit to learn from.

    Args:
        regression: whether a table's target is a number to predict rather than a class.
        known: what a run knows of the data, which are divided as it did. Raises DataError as `KnownData.divide`.
    """
    old = known is not None and known.is_of_old_version
    source = _read(config, regression, None if old else known, centred=not old)
    if known is None or old or isinstance(config, c.ImageFolder | c.ImageCsv | c.ImageShards | c.TableFile):
        return source  # files are divided as they are read
    return source.divided_as(known)


def _read(
    config: c.ClassificationData | c.RegressionData, regression: bool, known: KnownData | None, *, centred: bool
) -> Source:
    match config:
        case c.Digits():
            return digits(config)
        case c.TorchvisionSet():
            return torchvision_set(config)
        case c.ImageFolder() | c.ImageCsv() | c.ImageShards():
            return image_source(list_images(config), config, known)
        case c.TableFile():
            table = read_table(config, regression=regression, known=known)
            return table_source(table, config.select, info=known.info if known else None, centred=centred)
        case c.EmbeddedTable():
            return embedded_table(config)
        case c.Xor():
            return xor(config)
        case _:
            assert_never(config)


def new_data(
    config: c.ClassificationData | c.RegressionData, path: Path, target: str
) -> c.ImageFolder | c.ImageCsv | c.ImageShards | c.TableFile:
    """Return the section of all labelled data in a folder, shards or a CSV file, of the kind of a run's.

    target: the column to predict of a table that lies in no file. Raises ConfigError for what is of another kind.
    """
    if isinstance(config, c.Digits | c.TorchvisionSet | c.ImageFolder | c.ImageCsv | c.ImageShards):
        if has_shards(path):
            label = config.label if isinstance(config, c.ImageShards) else None
            return c.ImageShards(name="shards", root=path, label=label, val=0, test=0)
        if path.is_dir():
            return c.ImageFolder(name="folder", root=path, val=0, test=0)
        section = c.ImageCsv(name="image_csv", file=path, val=0, test=0)
        if isinstance(config, c.ImageCsv):
            section = section.model_copy(update=config.model_dump(include={"path_column", "label_column"}))
        return section
    if path.is_dir():
        raise ConfigError("the model takes rows of a table", where=f"--on {path}", fix="give a CSV file")
    section_of_rows = c.TableFile(name="csv", file=path, target=target, val=0, test=0)
    if isinstance(config, c.TableFile):
        drop = (*config.drop, *([config.split_column] if config.split_column else []))
        kept = {"target": config.target, "categorical": config.categorical, "drop": drop}
        section_of_rows = section_of_rows.model_copy(update=kept)
    return section_of_rows


def list_images(config: c.ImageFolder | c.ImageCsv | c.ImageShards) -> Listing:
    """The image files that a section names, and what is wrong with their layout. Never raises."""
    if isinstance(config, c.ImageFolder):
        return read_folder(config.root, val=config.val, test=config.test)
    if isinstance(config, c.ImageShards):
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
