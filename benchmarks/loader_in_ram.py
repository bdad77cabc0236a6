"""How fast do batches come out of memory? CIFAR-shaped images, random crop and flip, normalised, batch 256.

    python benchmarks/loader_in_ram.py [--images 50000] [--rounds 7]

Each loader delivers float32 batches on the CPU. They run in turn, several rounds, in alternating order. If others use
the cores too, OMP_NUM_THREADS=1 keeps torch from waiting for threads that are not running.
"""

import argparse
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice

import torch
from machine_line import machine_line
from PIL import Image
from rounds import alternate, spread, table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mlcli.data.augmentations import HorizontalFlip, RandomCrop
from mlcli.data.feed import SampleFeed
from mlcli.data.info import DataInfo
from mlcli.data.source import Arrays, Source
from mlcli.engine.settings import Loader, Train

NUM, BATCH, PADDING, ROUNDS = 50_000, 256, 4, 7
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--images", type=int, default=NUM)
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = arguments.parse_args()
    shape = (chosen.images, 3, 32, 32)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(chosen.images) % 10
    share = min(1.0, chosen.images / NUM)
    loaders = {  # and how many batches make about a second
        "mlcli's `SampleFeed`, each sample by its own keyed random numbers": (sample_feed(images, labels), 400),
        "a tensor loop written by hand for this set": (hand_written(images, labels), 400),
        "torchvision's dataset and DataLoader with 2 workers": (torchvision_loader(images, labels), 24),
    }
    measures = {
        name: partial(images_per_s, batches, max(2, round(share * count))) for name, (batches, count) in loaders.items()
    }
    print(f"{machine_line()}; {chosen.rounds} rounds\n", flush=True)
    found = alternate(measures, chosen.rounds)
    print(table(("loader", "images/s"), ([name, spread(values)] for name, values in found.items())))


def images_per_s(batches: Iterator[Tensor], count: int) -> float:
    time.sleep(1)  # until the workers of the loader before have their batches ahead ready and are still
    for batch in islice(batches, 4):  # wake the workers up and empty what they had ready
        assert batch.dtype == torch.float32
    started = time.perf_counter()
    delivered = sum(len(batch) for batch in islice(batches, count))
    return delivered / (time.perf_counter() - started)


def normalised(images: Tensor) -> Tensor:
    """uint8 pixels as a model wants them."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    return images.float().sub_(255 * mean).div_(255 * std)


# --- the loaders: endless batches ------------------------------------------------------------------------------------


def sample_feed(images: Tensor, labels: Tensor) -> Iterator[Tensor]:
    info = DataInfo("image", (3, 32, 32), tuple("0123456789"), "label", MEAN, STD)
    feed = SampleFeed(
        Source(info, {"train": Arrays(images, labels, "noise")}),
        (RandomCrop(name="random_crop", padding=PADDING), HorizontalFlip(name="horizontal_flip")),
        train=Train(batch_size=BATCH),
        loader=Loader(),
        device=torch.device("cpu"),
    )
    for batch in feed.train_batches(0):
        yield normalised(batch.inputs)


def hand_written(images: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """As one would write it for this set alone: the whole set padded once, a window view, one index per batch."""
    windows = torch.nn.functional.pad(images, [PADDING] * 4).unfold(2, 32, 1).unfold(3, 32, 1)
    while True:
        for rows in torch.randperm(len(images)).split(BATCH):
            if len(rows) < BATCH:
                continue
            top, left = torch.randint(2 * PADDING + 1, (2, BATCH))
            batch = windows[rows, :, top, left]
            flip = torch.rand(BATCH, 1, 1, 1) < 0.5
            labels[rows]
            yield normalised(torch.where(flip, batch.flip(3), batch))


class PerImage(Dataset):
    """What torchvision.datasets.CIFAR10 does for each image."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        steps = [transforms.RandomCrop(32, padding=PADDING), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def torchvision_loader(images: Tensor, labels: Tensor) -> Iterator[Tensor]:
    loader = DataLoader(
        PerImage(images, labels), BATCH, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )
    while True:
        for batch, _ in loader:
            yield batch


if __name__ == "__main__":
    main()
