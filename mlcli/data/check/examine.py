"""`mlcli data check` for every source of images and tables; of images, also the sheets of pictures to look at."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from PIL import Image

from mlcli.data import config as c
from mlcli.data.check.duplicates import duplicate_findings
from mlcli.data.check.examination import Examination, Sheet, refused
from mlcli.data.check.images import image_findings, size_facts, size_findings, suggested_size
from mlcli.data.check.labels import Suspicions, label_findings, suspect_images, suspicion_findings
from mlcli.data.check.splits import balance_findings, image_drift
from mlcli.data.check.table import examine_rows, rows_of_source
from mlcli.data.finding import Finding
from mlcli.data.likeness import Pair, find_pairs
from mlcli.data.scan import Collection, FilePictures, Scan, held_collection, scan
from mlcli.data.source import Source
from mlcli.data.sources.build import build_source, list_images
from mlcli.data.sources.image_files import image_source, settled
from mlcli.data.sources.listing import Listing
from mlcli.data.sources.tables import read_table, table_source
from mlcli.data.splits import SPLITS, told_alike
from mlcli.errors import DataError
from mlcli.show.drawing import Tile, sheet
from mlcli.show.palette import PAPER, TRACK
from mlcli.text import plural, share

SHEET_SIDE = 112
"""Pixels of the square that an image is fitted into; digits of 8x8 become 14 times as large, pixel by pixel."""
PER_CLASS, MAX_CLASSES = 10, 40
MAX_PAIRS, MAX_SUSPECTS = 48, 24
AMBER, RED = "#c27004", "#c53028"
EMPTY, UNREADABLE = Image.new("RGB", (1, 1), PAPER), Image.new("RGB", (1, 1), TRACK)


def examine(config: c.ClassificationData | c.RegressionData, *, regression: bool) -> Examination:
    """Look at everything in one pass; what would stop training is a finding among the others.

    Raises nothing but bugs. Files are listed once, for the examination and for what training would make of them.
    """
    if isinstance(config, c.ImageFolder | c.ImageCsv | c.ImageShards):
        listing = list_images(config)
        examination = examine_files(config, listing)
        _ask_training(examination, lambda: image_source(listing, config))  # its notes are findings already
        return examination
    if isinstance(config, c.TableFile):
        table = read_table(config, regression=regression)
        examination = examine_rows(table)
        source = _ask_training(examination, lambda: table_source(table, config.select))
    else:
        examination = Examination()
        source = _ask_training(examination, lambda: build_source(config, regression=regression))
        if source is not None and isinstance(config, c.EmbeddedTable | c.Xor):
            examination = examine_rows(rows_of_source(source), by_design=isinstance(config, c.Xor))
        elif source is not None:
            collection = held_collection(source.splits, source.info.class_names)
            examine_pictures(examination, collection, scan(collection.pictures), None)
    if source is not None:
        told = tuple(str(finding) for finding in examination.findings)
        said = told_alike(source.info.class_names)  # a finding of its own
        notes = [note for note in source.notes if not note.startswith(told) and note not in said]
        examination.findings += [Finding("note", "training-says", note) for note in notes]
    return examination


def _ask_training(examination: Examination, build: Callable[[], Source]) -> Source | None:
    """Return the source that training would use; the error it would stop with becomes a finding."""
    try:
        return build()
    except DataError as error:
        examination.findings.append(refused(error))
        return None


# --- images ----------------------------------------------------------------------------------------------------------


def examine_files(config: c.ImageFiles, listing: Listing) -> Examination:
    """Image files in folders or listed in a CSV file. Never raises: what is wrong becomes a finding."""
    examination = Examination(findings=list(listing.findings))
    if not len(listing):
        return examination
    if config.duplicates != "keep":
        with suppress(DataError):  # `examine` reports why training refuses it
            listing = settled(listing, config.duplicates)
            examination.findings += listing.findings[-1:]
    listing = listing.only(np.argsort(listing.split_of, kind="stable"))  # split by split, as pairs are written down
    looked = scan(FilePictures(listing.root, listing.paths))
    listing = replace(listing, split_of=_divided(config, listing, looked))
    splits = [SPLITS.index(split) for split in listing.splits]
    split_of = np.searchsorted(splits, listing.split_of).astype(np.int8)
    pictures = FilePictures(listing.root, listing.paths)
    collection = Collection(pictures, listing.labels, listing.class_names, split_of, listing.splits)
    present = listing.labels[listing.labels >= 0]
    examination.findings += label_findings(
        listing.class_names, np.bincount(present, minlength=len(listing.class_names))
    )
    examine_pictures(examination, collection, looked, config)
    return examination


def _divided(config: c.ImageFiles, listing: Listing, looked: Scan) -> np.ndarray:
    """The splits that training will make of it; the given ones if it cannot, or if there are no labels to divide by."""
    split_of = listing.split_of.copy()
    kept = np.arange(len(listing))
    if config.bad_images == "skip":  # left out before the split is made
        kept = np.setdiff1d(kept, list(looked.faults), assume_unique=True)
    if (listing.labels[kept] >= 0).all():
        with suppress(DataError):  # `examine` reports why training refuses it
            split_of[kept] = listing.only(kept).divided(config.split_seed)
    return split_of


def examine_pictures(
    examination: Examination, collection: Collection, looked: Scan, config: c.ImageFiles | None
) -> None:
    """Add everything that is found by looking at the images. config: None for images that are not classified files."""
    text, size_figures = size_facts(looked)
    examination.facts += _facts(collection, looked, text)
    found = image_findings(collection, looked, config)
    if config is not None:
        found += size_findings(looked, config)
    pairs = find_pairs(collection, looked)
    found += duplicate_findings(collection, pairs)
    table, suspicions = collection.label_counts(), None
    if table:
        found += balance_findings(table, collection.class_names, "images")
        suspicions = suspect_images(collection, looked)
    found += image_drift(collection, looked)
    if suspicions is not None:
        names = collection.names(suspicions.suspects)
        labels = [collection.label(int(index)) for index in suspicions.suspects]
        found += suspicion_findings(suspicions, names, labels, collection.class_names, "suspicious.png")
    examination.findings += found
    usable = looked.read[looked.ok]
    sheets = (class_sheet(collection, usable), suspicion_sheet(collection, suspicions), pair_sheet(collection, pairs))
    examination.sheets += [sheet for sheet in sheets if sheet]
    examination.figures |= {
        "images": len(collection),
        "looked_at": len(looked.read),
        "reading_s": round(looked.seconds, 2),
        "splits": collection.counts(),
        "classes": {
            name: {split: int(counts[label]) for split, counts in table.items()}
            for label, name in enumerate(collection.class_names)
        },
        "suggested_image_size": suggested_size(looked),
        **size_figures,
        "pairs": [_plain(collection, pair) for pair in pairs],
    }


def _facts(collection: Collection, looked: Scan, sizes: str) -> list[tuple[str, str]]:
    counts = " · ".join(f"{count:,} {split}" for split, count in collection.counts().items())
    classes = f" · {plural(len(collection.class_names), 'class', 'classes')}" if collection.class_names else ""
    how = f"all {len(looked.read):,} looked at"
    if not looked.complete:
        how = (f"{len(looked.read):,} of {looked.total:,} looked at ({share(len(looked.read), looked.total)}, drawn at "
               "random); all would take over a minute, so not every fault is seen")  # fmt: skip
    return [("images", f"{counts}{classes} · {how}"), ("sizes", sizes)]


def _plain(collection: Collection, pair: Pair) -> dict[str, object]:
    both = (pair.first, pair.second)
    return {
        "first": collection.name(pair.first),
        "second": collection.name(pair.second),
        "likeness": pair.likeness,
        "score": round(pair.score, 4),
        "splits": [collection.split(index) for index in both],
        "labels": [collection.label(index) for index in both],
    }


# --- sheets ----------------------------------------------------------------------------------------------------------


def class_sheet(collection: Collection, usable: np.ndarray) -> Sheet | None:
    """A few samples of each class, drawn at random from a fixed seed. usable: positions of images that can be read."""
    labels = collection.labels[usable]
    classes = [label for label in range(len(collection.class_names)) if (labels == label).any()]
    if not classes:
        return None
    random, tiles = np.random.default_rng(0), []
    for label in classes[:MAX_CLASSES]:
        members = usable[labels == label]
        chosen = random.choice(members, min(PER_CLASS, len(members)), replace=False)
        pictures = [_picture(collection, index) for index in chosen.tolist()]
        pictures += [EMPTY] * (PER_CLASS - len(pictures))
        line = f"{collection.class_names[label]}\t{plural(len(members), 'image')}"
        tiles.append(Tile(pictures[0], (line,), more=tuple(pictures[1:])))
    note = f"{plural(len(usable), 'image')} · {plural(len(classes), 'class', 'classes')}"
    note += f", the first {MAX_CLASSES} shown" if len(classes) > MAX_CLASSES else ""
    image = sheet("Samples of each class", note, tiles, columns=1, side=SHEET_SIDE)
    return Sheet("classes", f"{PER_CLASS} samples of each class", image)


def pair_sheet(collection: Collection, pairs: Sequence[Pair]) -> Sheet | None:
    """Two images that show the same, side by side: those under two labels and in two splits first."""
    if not pairs:
        return None

    def severity(pair: Pair) -> tuple[bool, bool]:
        return (
            bool(collection.labels[pair.first] != collection.labels[pair.second]),
            bool(collection.split_of[pair.first] != collection.split_of[pair.second]),
        )

    tiles = []
    for pair in sorted(pairs, key=lambda pair: (*(not harm for harm in severity(pair)), -pair.score))[:MAX_PAIRS]:
        disagree, across = severity(pair)
        names = [os.path.basename(collection.name(index)) for index in (pair.first, pair.second)]
        places = [
            " · ".join(word for word in (collection.split(index), collection.label(index)) if word)
            for index in (pair.first, pair.second)
        ]
        likeness = pair.likeness + ("" if pair.score >= 0.995 else f" {pair.score:.2f}")
        tiles.append(
            Tile(
                _picture(collection, pair.first),
                ("\t".join(names), "\t".join(places), likeness),
                more=(_picture(collection, pair.second),),
                frame=RED if disagree else AMBER if across else None,
                framed=2,
            )
        )
    note = plural(len(pairs), "pair") + (f", {len(tiles)} of them shown" if len(tiles) < len(pairs) else "")
    note += " · red: under two labels · amber: in two splits"
    image = sheet("Images that show the same", note, tiles, columns=4, side=SHEET_SIDE)
    return Sheet("duplicates", "pairs of images that show the same", image)


def suspicion_sheet(collection: Collection, found: Suspicions | None) -> Sheet | None:
    """Each doubted image and the nearest ones of the class it looks like; the most confident first."""
    if found is None or not len(found.suspects):
        return None
    tiles = []
    for number, index in enumerate(found.suspects[:MAX_SUSPECTS].tolist()):
        likely = collection.class_names[found.likely[number]]
        line = f"'{collection.label(index)}' looks like '{likely}' ({found.confidence[number]:.2f})"
        similar = tuple(_picture(collection, neighbour) for neighbour in found.neighbours[number].tolist())
        name = os.path.join(*collection.name(index).split(os.sep)[-2:])
        tiles.append(Tile(_picture(collection, index), (line, name), more=similar, frame=AMBER))
    note = f"{plural(len(found.suspects), 'label')} doubted"
    note += f", the first {len(tiles)} shown" if len(tiles) < len(found.suspects) else ""
    note += " · framed: the image · right of it: the most similar images of the class it looks like"
    image = sheet("Labels to look at", note, tiles, columns=2, side=SHEET_SIDE)
    return Sheet("suspicious", "labels to look at, with similar images of the likely class", image)


def _picture(collection: Collection, index: int) -> Image.Image:
    try:
        return collection.pictures.picture(index)
    except DataError:
        return UNREADABLE
