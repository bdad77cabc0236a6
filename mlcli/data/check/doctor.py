"""`mlcli data check` for every source of images and tables: the one way in."""

from collections.abc import Callable

from mlcli.data.check.examination import Examination, refused
from mlcli.data.check.pictures import examine_files, examine_pictures
from mlcli.data.check.scan import held_collection, scan
from mlcli.data.check.table import examine_rows, rows_of_source
from mlcli.data.config import ClassificationData, EmbeddedTable, ImageCsv, ImageFolder, RegressionData, TableFile, Xor
from mlcli.data.finding import Finding
from mlcli.data.source import Source
from mlcli.data.sources.build import build_source, list_images, list_rows, listed_source, selection
from mlcli.data.sources.tables import table_source
from mlcli.errors import DataError


def examine(config: ClassificationData | RegressionData, *, regression: bool) -> Examination:
    """Look at everything in one pass; what would stop training is a finding among the others.

    Raises nothing but bugs. Files are listed once, for the examination and for what training would make of them.
    """
    if isinstance(config, ImageFolder | ImageCsv):
        listing = list_images(config)
        examination = examine_files(config, listing)
        _ask_training(examination, lambda: listed_source(config, listing))  # its notes are findings already
        return examination
    if isinstance(config, TableFile):
        table = list_rows(config, regression=regression)
        examination = examine_rows(table)
        source = _ask_training(examination, lambda: table_source(table, **selection(config)))
    else:
        examination = Examination()
        source = _ask_training(examination, lambda: build_source(config, regression=regression))
        if source is not None and isinstance(config, EmbeddedTable | Xor):
            examination = examine_rows(rows_of_source(source), by_design=isinstance(config, Xor))
        elif source is not None:
            collection = held_collection(source.splits, source.info.class_names)
            examine_pictures(examination, collection, scan(collection.pictures), None)
    if source is not None:
        examination.findings += [Finding("note", "training-says", note) for note in source.notes]
    return examination


def _ask_training(examination: Examination, build: Callable[[], Source]) -> Source | None:
    """What training would get; the error it would stop with becomes a finding."""
    try:
        return build()
    except DataError as error:
        examination.findings.append(refused(error))
        return None
