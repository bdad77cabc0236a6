"""From a data section to its samples: where each config class meets its reader."""

from typing import assert_never

from mlcli.data.config import (
    ClassificationData,
    Digits,
    EmbeddedTable,
    ImageCsv,
    ImageFolder,
    RegressionData,
    TableFile,
    TorchvisionSet,
    Xor,
)
from mlcli.data.source import Source
from mlcli.data.sources.embedded import digits, embedded_table, xor
from mlcli.data.sources.files import image_csv, image_folder
from mlcli.data.sources.tables import table_file
from mlcli.data.sources.torchvision_sets import torchvision_set


def build_source(config: ClassificationData | RegressionData, *, regression: bool = False) -> Source:
    """Read a data set. Raises DataError if it is not there or not fit to learn from.

    regression: whether a table's target is a number to predict rather than a class.
    """
    match config:
        case Digits():
            return digits(config)
        case TorchvisionSet():
            return torchvision_set(config)
        case ImageFolder():
            return image_folder(config)
        case ImageCsv():
            return image_csv(config)
        case TableFile():
            return table_file(config, regression=regression)
        case EmbeddedTable():
            return embedded_table(config, regression=regression)
        case Xor():
            return xor(config)
        case _:
            assert_never(config)
