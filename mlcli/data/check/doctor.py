"""`mlcli data check` for every source of images and tables: the one way in."""

from typing import TYPE_CHECKING

from mlcli.data.check.collection import held_collection
from mlcli.data.check.finding import Examination, Finding
from mlcli.data.config import (
    ClassificationData,
    EmbeddedTable,
    ImageCsv,
    ImageFolder,
    RegressionData,
    TableFile,
    Xor,
)
from mlcli.errors import DataError

if TYPE_CHECKING:
    from mlcli.data.source import Source


def examine(config: ClassificationData | RegressionData, *, regression: bool) -> Examination:
    """Look at everything in one pass; what would stop training is a finding among the others.

    Raises nothing but bugs. The data are read twice: once leniently here, and once as training would.
    """
    source, refusal = _as_training_would(config, regression)
    if isinstance(config, ImageFolder | ImageCsv):
        from mlcli.data.check.pictures import examine_files

        examination = examine_files(config)
    elif isinstance(config, TableFile):
        from mlcli.data.check.table import examine_table_file

        examination = examine_table_file(config, regression=regression)
    elif source is None:
        examination = Examination()
    elif isinstance(config, EmbeddedTable | Xor):
        from mlcli.data.check.table import examine_table

        examination = examine_table(source, by_design=isinstance(config, Xor))
    else:
        from mlcli.data.check.pictures import examine_pictures
        from mlcli.data.check.scan import scan

        examination = Examination()
        collection = held_collection(source.splits, source.info.class_names)
        examine_pictures(examination, collection, scan(collection.pictures), None)
    if refusal is not None:
        examination.findings.append(refusal)
    elif source is not None and not isinstance(config, ImageFolder | ImageCsv):  # theirs are findings already
        examination.findings += [Finding("note", "training-says", note) for note in source.notes]
    return examination


def _as_training_would(
    config: ClassificationData | RegressionData, regression: bool
) -> tuple["Source | None", Finding | None]:
    """What training would get, or the error it would stop with."""
    try:
        if isinstance(config, TableFile | EmbeddedTable):
            return config.build(regression=regression), None
        return config.build(), None
    except DataError as error:
        return None, refused(error)


def refused(error: DataError) -> Finding:
    """What training says when it will not begin."""
    return Finding("error", "refused", f"training refuses this: {error.what}",
                   (error.where,) if error.where else (), error.fix)  # fmt: skip
