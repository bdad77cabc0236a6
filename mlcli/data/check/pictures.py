"""The examination of a data set of images, from the listing of its files to the sheets."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mlcli.data.check.balance import balance_findings
from mlcli.data.check.collection import Collection, FilePictures
from mlcli.data.check.drift import image_drift
from mlcli.data.check.duplicates import Pair, duplicate_findings, find_pairs
from mlcli.data.check.finding import Examination
from mlcli.data.check.images import image_findings, size_facts, size_findings, suggested_size
from mlcli.data.check.labels import label_findings
from mlcli.data.check.listing import Found, list_images
from mlcli.data.check.scan import Scan, scan
from mlcli.data.check.sheet import class_sheet, pair_sheet, suspicion_sheet
from mlcli.data.check.suspicion import suspect_images, suspicion_findings
from mlcli.data.splits import split_indices
from mlcli.errors import DataError
from mlcli.text import plural, share

if TYPE_CHECKING:
    from mlcli.data.config import ImageCsv, ImageFiles, ImageFolder


def examine_files(config: "ImageFolder | ImageCsv") -> Examination:
    """Image files in folders or listed in a CSV file. Never raises: what is wrong becomes a finding."""
    found = list_images(config)
    examination = Examination(findings=list(found.findings))
    if not found.paths:
        return examination
    everything = np.array(found.paths, dtype=bytes)
    pictures = FilePictures(found.root, everything)
    looked = scan(pictures)
    given = tuple(split for split in ("train", "val", "test") if split in found.split_of)
    collection = Collection(
        pictures,
        np.array(found.labels, dtype=np.int64),
        found.class_names,
        np.array([given.index(split) for split in found.split_of], dtype=np.int8),
        given,
    )
    divided = _divided(config, found, collection, looked)
    names = divided.class_names
    present = divided.labels[divided.labels >= 0]
    examination.findings += label_findings(names, np.bincount(present, minlength=len(names)))
    examine_pictures(examination, divided, looked, config)
    return examination


def examine_pictures(
    examination: Examination, collection: Collection, looked: Scan, config: "ImageFiles | None"
) -> None:
    """Add everything that is found by looking at the images. config: None for images that are not classified files."""
    examination.facts += _facts(collection, looked)
    found = image_findings(collection, looked, config)
    if config is not None:
        found += size_findings(looked, config)
    pairs = find_pairs(collection, looked)
    found += duplicate_findings(collection, pairs)
    table = label_table(collection)
    suspicions = None
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
    examination.figures |= _figures(collection, looked, pairs)


def label_table(collection: Collection) -> dict[str, np.ndarray]:
    """Images of each class in each split; empty where there are no labels."""
    table = {}
    for number, split in enumerate(collection.splits):
        labels = collection.labels[collection.split_of == number]
        table[split] = np.bincount(labels[labels >= 0], minlength=len(collection.class_names))
    return table if any(counts.any() for counts in table.values()) else {}


def _divided(config: "ImageFiles", found: Found, collection: Collection, looked: Scan) -> Collection:
    """The splits that training will make of it; all given ones as they are if it cannot."""
    train = collection.split_of == collection.splits.index("train") if "train" in collection.splits else None
    shares = {split: part for split, part in found.held_out.items() if part > 0}
    if train is None or not shares:
        return collection
    rows = np.flatnonzero(train)
    if config.bad_images == "skip":  # left out before the split is made
        rows = np.setdiff1d(rows, list(looked.faults), assume_unique=True)
    labels = collection.labels[rows]
    try:
        indices = split_indices(
            len(rows), found.held_out, config.split_seed, labels=labels, class_names=collection.class_names
        )
    except (DataError, ValueError):  # said by the builder, which is asked as well; unlabelled rows have no class
        return collection
    splits = tuple(split for split in ("train", "val", "test") if split in {*collection.splits, *indices})
    old = np.array([splits.index(split) for split in collection.splits], dtype=np.int8)
    split_of = old[collection.split_of]
    for split, chosen in indices.items():
        split_of[rows[chosen]] = splits.index(split)
    return replace(collection, split_of=split_of, splits=splits)


def _facts(collection: Collection, looked: Scan) -> list[tuple[str, str]]:
    counts = " · ".join(f"{count:,} {split}" for split, count in collection.counts().items())
    classes = f" · {plural(len(collection.class_names), 'class', 'classes')}" if collection.class_names else ""
    how = f"all {len(looked.read):,} looked at"
    if not looked.complete:
        how = (f"{len(looked.read):,} of {looked.total:,} looked at ({share(len(looked.read), looked.total)}, drawn at "
               "random); all would take over a minute, so not every fault is seen")  # fmt: skip
    text, _ = size_facts(looked)
    return [("images", f"{counts}{classes} · {how}"), ("sizes", text)]


def _figures(collection: Collection, looked: Scan, pairs: list[Pair]) -> dict[str, object]:
    _, sizes = size_facts(looked)
    table = label_table(collection)
    return {
        "images": len(collection),
        "looked_at": len(looked.read),
        "reading_s": round(looked.seconds, 2),
        "splits": collection.counts(),
        "classes": {
            name: {split: int(counts[label]) for split, counts in table.items()}
            for label, name in enumerate(collection.class_names)
        },
        "suggested_image_size": suggested_size(looked),
        **sizes,
        "pairs": [
            {"first": collection.name(pair.first), "second": collection.name(pair.second), "likeness": pair.likeness,
             "score": round(pair.score, 4), "splits": [collection.split(pair.first), collection.split(pair.second)],
             "labels": [collection.label(pair.first), collection.label(pair.second)]}
            for pair in pairs
        ],
    }  # fmt: skip
