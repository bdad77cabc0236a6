"""Sources that lie in memory as arrays: what digits, MNIST, CIFAR and their kin have in common."""

import torch
from torch import Tensor

from mlcli.data.decode import Preparation
from mlcli.data.info import DataInfo
from mlcli.data.source import Arrays, Source
from mlcli.data.splits import split_indices
from mlcli.data.statistics import pixel_counts, pixel_statistics


def split_arrays(
    inputs: Tensor, labels: Tensor, class_names: tuple[str, ...], shares: dict[str, float], seed: int, origin: str
) -> dict[str, Arrays]:
    """Divide samples, stratified by label; each keeps its place in the whole as its number."""
    indices = split_indices(len(labels), shares, seed, labels=labels.numpy(), class_names=class_names, where=origin)
    splits: dict[str, Arrays] = {}
    for split, chosen in indices.items():
        rows = torch.from_numpy(chosen)
        splits[split] = Arrays(inputs.index_select(0, rows), labels.index_select(0, rows), origin, chosen)
    return splits


def image_source(splits: dict[str, Arrays], class_names: tuple[str, ...], notes: tuple[str, ...] = ()) -> Source:
    """A source of images uint8 [N, C, H, W]; other image files can be prepared to look like them."""
    images = splits["train"].inputs
    _, channels, height, width = images.shape
    mean, std = pixel_statistics(pixel_counts(images.numpy()))
    info = DataInfo(
        kind="image",
        input_shape=(channels, height, width),
        class_names=class_names,
        target="label",
        mean=mean,
        std=std,
        preparation=Preparation((height, width), "crop", 3 if channels == 3 else 1).to_plain(),
    )
    return Source(info, dict(splits), notes)
