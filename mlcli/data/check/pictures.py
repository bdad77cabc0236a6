"""The examination of a data set of images, from the listing of its files to the sheets."""

from contextlib import suppress
from dataclasses import replace

import numpy as np

from mlcli.data.check.duplicates import Pair, duplicate_findings, find_pairs
from mlcli.data.check.examination import Examination
from mlcli.data.check.images import image_findings, size_facts, size_findings, suggested_size
from mlcli.data.check.labels import label_findings, suspect_images, suspicion_findings
from mlcli.data.check.scan import Collection, FilePictures, Scan, scan
from mlcli.data.check.sheet import class_sheet, pair_sheet, suspicion_sheet
from mlcli.data.check.splits import balance_findings, image_drift
from mlcli.data.config import ImageCsv, ImageFiles, ImageFolder
from mlcli.data.finding import Finding
from mlcli.data.sources.listing import SPLIT_FOLDERS, Listing
from mlcli.data.splits import SPLITS
from mlcli.errors import DataError
from mlcli.text import plural, share

SPLIT_LIKE = {*SPLIT_FOLDERS, "training", "testing", "eval", "evaluation", "dev"}


def examine_files(config: ImageFolder | ImageCsv, listing: Listing) -> Examination:
    """Image files in folders or listed in a CSV file. Never raises: what is wrong becomes a finding."""
    examination = Examination(findings=list(listing.findings))
    if not len(listing):
        return examination
    splitlike = tuple(name for name in listing.class_names if name.casefold() in SPLIT_LIKE)
    if isinstance(config, ImageFolder) and listing.splits == ("train",) and len(splitlike) > 1:
        what = "folders that look like splits are taken for classes, since there is no train/ with folders in it"
        fix = "name them train, val and test, with a folder for each class inside"
        examination.findings.append(Finding("error", "splits-taken-for-classes", what, splitlike, fix))
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


def _divided(config: ImageFiles, listing: Listing, looked: Scan) -> np.ndarray:
    """The splits that training will make of it; the given ones if it cannot, or if there are no labels to divide by."""
    split_of = listing.split_of.copy()
    kept = np.arange(len(listing))
    if config.bad_images == "skip":  # left out before the split is made
        kept = np.setdiff1d(kept, list(looked.faults), assume_unique=True)
    if (listing.labels[kept] >= 0).all():
        with suppress(DataError):  # `examine` reports why training refuses it
            split_of[kept] = listing.only(kept).divided(config.split_seed)
    return split_of


def examine_pictures(examination: Examination, collection: Collection, looked: Scan, config: ImageFiles | None) -> None:
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
