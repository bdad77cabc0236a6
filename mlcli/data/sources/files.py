"""Data sets of image files: checked, divided, measured."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from mlcli.data.decode import Preparation
from mlcli.data.files import ImageFilesSamples
from mlcli.data.info import DataInfo
from mlcli.data.inspection import common_size, count_pixels, find_damaged
from mlcli.data.source import Source
from mlcli.data.sources.listing import Listing, list_csv, list_folder
from mlcli.data.splits import check_same_classes, split_indices
from mlcli.data.statistics import imagenet_statistics, pixel_statistics
from mlcli.errors import DataError
from mlcli.text import first_few

if TYPE_CHECKING:
    from mlcli.data.config import ImageCsv, ImageFiles, ImageFolder


def image_folder(config: "ImageFolder") -> Source:
    """Raises DataError if the folder's layout, classes or images are not fit to learn from."""
    return _source(config, list_folder(config))


def image_csv(config: "ImageCsv") -> Source:
    """Raises DataError if the file's columns, labels or images are not fit to learn from."""
    return _source(config, list_csv(config))


def _source(config: "ImageFiles", listing: Listing) -> Source:
    if len(listing.class_names) < 2:
        raise DataError(
            f"there is one class only, '{listing.class_names[0]}': nothing to tell apart",
            where=listing.root,
            fix="give a folder or label for each of at least two classes",
        )
    size = config.image_size or (1, 1)  # until the files have told it
    height, width = (size, size) if isinstance(size, int) else size
    preparation = Preparation((height, width), config.fit, config.channels)
    given = {
        split: ImageFilesSamples(listing.root, paths, torch.from_numpy(labels), preparation)
        for split, (paths, labels) in listing.splits.items()
    }
    notes = list(listing.notes)
    if config.bad_images == "skip":
        given = _without_damaged(config, given, notes)
    labels = {split: samples.targets.numpy() for split, samples in given.items()}
    check_same_classes(labels, listing.class_names, "images", listing.root)
    samples = _divided(config, given, listing)
    if config.image_size is None:
        preparation = replace(preparation, image_size=common_size(list(samples.values()), config.split_seed))
        samples = {split: replace(part, preparation=preparation, same_size=True) for split, part in samples.items()}
    if config.normalize == "imagenet":
        mean, std = imagenet_statistics(config.channels)
    else:
        counts, counted = count_pixels(samples["train"], config.split_seed)
        mean, std = pixel_statistics(counts)
        if counted < len(samples["train"]):
            notes.append(f"mean and std come from {counted:,} of {len(samples['train']):,} training images")
    info = DataInfo(
        kind="image",
        input_shape=(config.channels, *preparation.image_size),
        class_names=listing.class_names,
        target="label",
        mean=mean,
        std=std,
        preparation=preparation.to_plain(),
    )
    return Source(info, dict(samples), tuple(notes))


def _divided(
    config: "ImageFiles", given: dict[str, ImageFilesSamples], listing: Listing
) -> dict[str, ImageFilesSamples]:
    """The given splits, and those still to be held out of the training split."""
    train = given["train"]
    indices = split_indices(
        len(train),
        listing.held_out,
        config.split_seed,
        labels=train.targets.numpy(),
        class_names=listing.class_names,
        where=listing.root,
    )
    divided = {split: _only(train, chosen) for split, chosen in indices.items()}
    merged = divided | {split: samples for split, samples in given.items() if split != "train"}
    return {split: merged[split] for split in ("train", "val", "test") if split in merged}


def _only(samples: ImageFilesSamples, indices: np.ndarray) -> ImageFilesSamples:
    return replace(samples, paths=samples.paths[indices], targets=samples.targets[torch.from_numpy(indices)])


def _without_damaged(
    config: "ImageFiles", given: dict[str, ImageFilesSamples], notes: list[str]
) -> dict[str, ImageFilesSamples]:
    """Leave out what cannot be decoded and say so. Raises DataError if that is more than the cap."""
    damaged = {split: find_damaged(samples) for split, samples in given.items()}
    listed = [f"{given[split].name(index)} ({why})" for split, found in damaged.items() for index, why in found.items()]
    total = sum(map(len, given.values()))
    if len(listed) > config.max_bad_share * total:
        raise DataError(
            f"{len(listed)} of {total} images cannot be read; data.max_bad_share allows {config.max_bad_share}",
            where=first_few(listed),
            fix="replace or remove these files, or raise data.max_bad_share",
        )
    if listed:
        notes.append(f"left out {len(listed)} of {total} images that cannot be read: {first_few(listed)}")
    return {
        split: _only(samples, np.setdiff1d(np.arange(len(samples)), list(damaged[split]), assume_unique=True))
        for split, samples in given.items()
    }
