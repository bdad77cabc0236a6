"""Data sets of image files: a listing, checked, divided and measured."""

import contextlib
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from mlcli.data.decode import Preparation
from mlcli.data.finding import Finding, refuse
from mlcli.data.fingerprints import of_classes, of_files
from mlcli.data.info import DataInfo
from mlcli.data.inspection import common_size, count_pixels, find_damaged, imagenet_statistics, pixel_statistics
from mlcli.data.source import ImageFilesSamples, Source
from mlcli.data.sources.listing import Listing
from mlcli.data.splits import SPLITS, check_same_classes, joined, one_of_each, refuse_emptied
from mlcli.engine.membership import Fingerprints, KnownData
from mlcli.errors import DataError
from mlcli.text import first_few, plural


def image_source(
    listing: Listing,
    *,
    image_size: int | tuple[int, int] | None = None,
    fit: Literal["crop", "stretch", "pad"] = "crop",
    channels: Literal[1, 3] = 3,
    normalize: Literal["train", "imagenet"] = "train",
    bad_images: Literal["error", "skip"] = "error",
    max_bad_share: float = 0.01,
    split_seed: int = 0,
    known: KnownData | None = None,
    duplicates: Literal["keep", "one_split", "drop"] = "keep",
) -> Source:
    """The listed images as samples. Raises DataError if layout, classes or images are not fit to learn from.

    Args:
        image_size: side, or height and width, in pixels that each image is brought to; None if all are of one size.
        fit, channels: as for `Preparation`.
        normalize: by the training split's mean and standard deviation, or by ImageNet's.
        bad_images: whether an image that cannot be read is an error or left out and noted.
        max_bad_share: with skip, the share of such images above which it is an error all the same.
        split_seed: which samples are held out.
        known: what a run knows of the images, which are divided as it did.
        duplicates: whether copies of a picture are kept, kept in one split, or left out.
    """
    refuse(listing.findings, listing.origin)
    as_saved = DataInfo.from_plain(known.info) if known and known.info else None
    names = as_saved.class_names if as_saved else listing.class_names
    if len(names) < 2:
        raise DataError(
            f"there is one class only, '{names[0]}': nothing to distinguish",
            where=listing.origin,
            fix="give a folder or label for each of at least two classes",
        )
    size = image_size or (1, 1)  # until the files have been measured
    preparation = Preparation((size, size) if isinstance(size, int) else size, fit, channels)
    notes = [str(finding) for finding in listing.findings]
    if bad_images == "skip":
        listing = _without_damaged(listing, preparation, max_bad_share, notes)
    if duplicates != "keep":
        listing = settled(listing, duplicates)
        notes += [str(finding) for finding in listing.findings[-1:]]
    if known:
        chosen, labels = _divided_as(known, listing, split_seed)
        listing = replace(listing, labels=labels)
    else:
        given = {split: listing.labels[listing.split_of == SPLITS.index(split)] for split in listing.splits}
        check_same_classes(given, names, "images", listing.origin)
        chosen = _positions(listing.divided(split_seed))
    samples = {split: _samples(listing.only(rows), preparation) for split, rows in chosen.items()}
    if as_saved and known and known.purpose == "measure":  # images of any size, as in predicting
        preparation = Preparation.from_plain(as_saved.preparation)
        samples = {split: replace(part, preparation=preparation) for split, part in samples.items()}
        channels = preparation.channels
    elif image_size is None:
        preparation = replace(preparation, image_size=common_size(list(samples.values()), split_seed))
        samples = {split: replace(part, preparation=preparation, same_size=True) for split, part in samples.items()}
    if as_saved:
        mean, std = as_saved.mean, as_saved.std
    elif normalize == "imagenet":
        mean, std = imagenet_statistics(channels)
    else:
        counts, counted = count_pixels(samples["train"], split_seed)
        mean, std = pixel_statistics(counts)
        if counted < len(samples["train"]):
            notes.append(f"mean and std come from {counted:,} of {len(samples['train']):,} training images")
    info = DataInfo(
        kind="image",
        input_shape=(channels, *preparation.image_size),
        class_names=names,
        target="label",
        mean=mean,
        std=std,
        preparation=preparation.to_plain(),
    )
    return Source(info, dict(samples), tuple(notes))


def _positions(split_of: np.ndarray) -> dict[str, np.ndarray]:
    """The positions of each split that has any: int64 [n], ascending."""
    found = {split: np.flatnonzero(split_of == code) for code, split in enumerate(SPLITS)}
    return {split: rows for split, rows in found.items() if len(rows)}


def _divided_as(known: KnownData, listing: Listing, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The positions of each split as a run divided the images, and all labels as its model knows them."""
    keys, sees = of_files(listing.root, listing.paths, known.sees)
    prints = Fingerprints(keys, of_classes(listing.labels, listing.class_names), sees)
    now: dict[str, np.ndarray] = {}
    with contextlib.suppress(DataError):  # drawing anew is for comparison only
        now = _positions(listing.divided(seed))
    drawn = [*listing.held_out]
    chosen = known.divide(prints, now, drawn, listing.origin)
    return known.relabelled(chosen, listing.labels, listing.class_names, listing.origin)


def settled(listing: Listing, duplicates: Literal["one_split", "drop"]) -> Listing:
    """Return the listing with the copies of each picture to be in one split, or without all but one of them; the last
    finding says what was done. Raises DataError if that empties a given split."""
    from mlcli.data.likeness import same_pictures  # has to look at all images

    given = listing.split_of
    copies = same_pictures(listing.root, listing.paths)
    copied = f"{plural(len(copies) - len(np.unique(copies)), 'image repeats another', 'images repeat another')}"
    if duplicates == "one_split":
        split_of = joined(copies, listing.split_of)
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
        raise DataError(
            f"{len(damaged)} of {len(listing)} images cannot be read; data.max_bad_share allows {most}",
            where=listed,
            fix="replace or remove these files, or raise data.max_bad_share",
        )
    if damaged:
        notes.append(f"left out {len(damaged)} of {len(listing)} images that cannot be read: {listed}")
    return listing.only(np.setdiff1d(np.arange(len(listing)), list(damaged), assume_unique=True))
