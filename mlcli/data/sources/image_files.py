"""Data sets of image files: a listing, checked, divided and measured."""

import contextlib
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from mlcli.data.config import ImageFiles
from mlcli.data.decode import Preparation
from mlcli.data.finding import Finding, refuse
from mlcli.data.fingerprints import of_classes, of_files
from mlcli.data.info import DataInfo
from mlcli.data.inspection import common_size, count_pixels, find_damaged, imagenet_statistics, pixel_statistics
from mlcli.data.source import ImageFilesSamples, Source
from mlcli.data.sources.listing import Listing
from mlcli.data.splits import (
    check_same_classes,
    groups_together,
    one_of_each,
    refuse_emptied,
    rows_of,
    told_alike,
    told_several,
)
from mlcli.engine.membership import Fingerprints, KnownData
from mlcli.errors import DataError
from mlcli.text import first_few, plural


def image_source(listing: Listing, config: ImageFiles, known: KnownData | None = None) -> Source:
    """The listed images as samples. Raises DataError if layout, classes or images are not fit to learn from.

    known: what a run knows of the images, which are divided as it did.
    """
    refuse(listing.findings, listing.origin)
    as_saved = DataInfo.from_plain(known.info) if known and known.info else None
    names = as_saved.class_names if as_saved else listing.class_names
    if len(names) < 2:
        what = f"there is one class only, '{names[0]}': nothing to distinguish"
        raise DataError(what, where=listing.origin, fix="give a folder or label for each of at least two classes")
    size = config.image_size or (1, 1)  # until the files have been measured
    preparation = Preparation((size, size) if isinstance(size, int) else size, config.fit, config.channels)
    said = [*told_alike(listing.class_names), *told_several(listing.class_names)]
    notes = [*map(str, listing.findings), *said]
    if config.bad_images == "skip":
        listing = _without_damaged(listing, preparation, config.max_bad_share, notes)
    if config.duplicates != "keep":
        listing = settled(listing, config.duplicates)
        notes += [str(finding) for finding in listing.findings[-1:]]
    if known:
        keys, sees = of_files(listing.root, listing.paths, known.sees)
        prints = Fingerprints(keys, of_classes(listing.labels, listing.class_names), sees)
        now: dict[str, np.ndarray] = {}
        with contextlib.suppress(DataError):  # drawing anew is for comparison only
            now = rows_of(listing.divided(config.split_seed))
        chosen = known.divide(prints, now, [*listing.held_out], listing.origin)
        chosen, labels = known.relabelled(chosen, listing.labels, listing.class_names, listing.origin)
        listing = replace(listing, labels=labels)
    else:
        given = {split: listing.labels[rows] for split, rows in rows_of(listing.split_of).items()}
        check_same_classes(given, names, "images", listing.origin)
        chosen = rows_of(listing.divided(config.split_seed))
    samples = {split: _samples(listing.only(rows), preparation) for split, rows in chosen.items()}
    if as_saved and known and known.purpose == "measure":  # images of any size, as in predicting
        preparation = Preparation.from_plain(as_saved.preparation)
        samples = {split: replace(part, preparation=preparation) for split, part in samples.items()}
    elif config.image_size is None:
        preparation = replace(preparation, image_size=common_size(list(samples.values()), config.split_seed))
        samples = {split: replace(part, preparation=preparation, same_size=True) for split, part in samples.items()}
    if as_saved:
        mean, std = as_saved.mean, as_saved.std
    elif config.normalize == "imagenet":
        mean, std = imagenet_statistics(config.channels)
    else:
        counts, counted = count_pixels(samples["train"], config.split_seed)
        mean, std = pixel_statistics(counts)
        if counted < len(samples["train"]):
            notes.append(f"mean and std come from {counted:,} of {len(samples['train']):,} training images")
    info = DataInfo(
        kind="image",
        input_shape=(preparation.channels, *preparation.image_size),
        class_names=names,
        target="label",
        mean=mean,
        std=std,
        preparation=preparation.to_plain(),
    )
    return Source(info, dict(samples), tuple(notes))


def settled(listing: Listing, duplicates: Literal["one_split", "drop"]) -> Listing:
    """Return the listing with the copies of each picture to be in one split, or without all but one of them; the last
    finding says what was done. Raises DataError if that empties a given split."""
    from mlcli.data.likeness import same_pictures  # has to look at all images

    given = listing.split_of
    copies = same_pictures(listing.root, listing.paths)
    copied = f"{plural(len(copies) - len(np.unique(copies)), 'image repeats another', 'images repeat another')}"
    if duplicates == "one_split":
        split_of = groups_together(copies, listing.split_of)
        moved = int((split_of != listing.split_of).sum())
        what = f"{copied}, and each goes with it into one split" + (f"; {moved:,} were in another" if moved else "")
        listing = replace(listing, copies=copies, split_of=split_of)
    else:  # under two labels, one of each stays
        alike = copies * (len(listing.class_names) + 1) + listing.labels
        kept = one_of_each(alike, listing.split_of)
        what = f"{copied}; {plural(len(listing) - len(kept), 'image is', 'images are')} left out"
        listing = listing.only(kept)
    refuse_emptied(given, listing.split_of, listing.origin)
    return replace(listing, findings=(*listing.findings, Finding("note", "duplicates-settled", what)))


def _samples(listing: Listing, preparation: Preparation) -> ImageFilesSamples:
    return ImageFilesSamples(listing.root, listing.paths, torch.from_numpy(listing.labels), preparation)


def _without_damaged(listing: Listing, preparation: Preparation, most: float, notes: list[str]) -> Listing:
    """Leave out what cannot be decoded and note it. Raises DataError if it is more than that share."""
    samples = _samples(listing, preparation)
    damaged = find_damaged(samples)
    listed = first_few([f"{samples.name(index)} ({why})" for index, why in damaged.items()])
    if len(damaged) > most * len(listing):
        what = f"{len(damaged)} of {len(listing)} images cannot be read; data.max_bad_share allows {most}"
        raise DataError(what, where=listed, fix="replace or remove these files, or raise data.max_bad_share")
    if damaged:
        notes.append(f"left out {len(damaged)} of {len(listing)} images that cannot be read: {listed}")
    return listing.only(np.setdiff1d(np.arange(len(listing)), list(damaged), assume_unique=True))
