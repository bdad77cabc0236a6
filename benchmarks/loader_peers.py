"""The loaders that loader_folders.py is measured beside: each makes endless normalised float32 batches from a folder.

All do the same to an image (crop, flip, normalise) in the way their documentation shows. What has a format of its own
gets the JPEGs' bytes in it, written beforehand.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class Folder:
    """JPEGs in `root`/CLASS/: brought to `side` pixels by a crop with padding (0: by a random resized crop)."""

    root: Path
    side: int
    padding: int
    batch_size: int


def transform_of(folder: Folder) -> Callable[[Image.Image], Tensor]:
    """Per image, as torchvision's own examples have it."""
    crop = (
        transforms.RandomCrop(folder.side, padding=folder.padding)
        if folder.padding
        else transforms.RandomResizedCrop(folder.side)
    )
    rest = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    return transforms.Compose([crop, *rest])


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def image_folder(folder: Folder, workers: int) -> Iterator[Tensor]:
    """torchvision's ImageFolder and torch's DataLoader."""
    data = datasets.ImageFolder(str(folder.root), transform_of(folder))
    return _endless(
        DataLoader(
            data, folder.batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
        )
    )


def dali(folder: Folder, threads: int) -> Iterator[Tensor]:
    """NVIDIA DALI on the CPU."""
    from nvidia.dali import fn, math, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    @pipeline_def(batch_size=folder.batch_size, num_threads=threads, device_id=None, seed=0)
    def pipeline():
        files, labels = fn.readers.file(file_root=str(folder.root), random_shuffle=True, name="files")
        if folder.padding:
            shift = fn.random.uniform(range=[-folder.padding, folder.padding + 1], shape=2)
            images = fn.slice(
                fn.decoders.image(files, device="cpu"),
                fn.cast(math.floor(shift), dtype=types.INT32),
                [folder.side, folder.side],
                axes=[0, 1],
                out_of_bounds_policy="pad",
            )
        else:
            images = fn.decoders.image_random_crop(
                files, device="cpu", random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
            )
            images = fn.resize(images, size=[folder.side, folder.side], interp_type=types.INTERP_LINEAR)
        return fn.crop_mirror_normalize(
            images,
            mirror=fn.random.coin_flip(),
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
            output_layout="CHW",
        ), labels

    pipe = pipeline()
    pipe.build()
    batches = DALIGenericIterator(pipe, ["images", "labels"], reader_name="files", auto_reset=True)
    while True:
        for batch in batches:
            yield batch[0]["images"]


def litdata(folder: Folder, workers: int) -> Iterator[Tensor]:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import Cache  # not `optimize`: it begins by deleting /tmp/data and /tmp/chunks, whosever

    transform, where = transform_of(folder), folder.root.with_name(f"{folder.root.name}-litdata")

    class Images(StreamingDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            sample = super().__getitem__(index)
            return transform(opened(sample["image"])), sample["label"]

    if not where.exists():
        written = Cache(str(where), chunk_bytes="16MB")
        for number, (path, label) in enumerate(_labelled(folder)):
            written[number] = {"image": path.read_bytes(), "label": label}
        written.done()
        written.merge()
    data = Images(str(where), shuffle=True, drop_last=True)
    return _endless(
        StreamingDataLoader(data, batch_size=folder.batch_size, num_workers=workers, persistent_workers=True)
    )


def webdataset(folder: Folder, workers: int) -> Iterator[Tensor]:
    import webdataset as wds

    where = folder.root.with_name(f"{folder.root.name}-webdataset")
    if not where.exists():
        where.mkdir()
        files = _labelled(folder)
        for shard in range(4):
            with wds.TarWriter(str(where / f"{shard}.tar")) as tar:
                for number, (path, label) in enumerate(files[shard::4]):
                    tar.write({"__key__": f"{number:06d}", "jpg": path.read_bytes(), "cls": label})
    shards = sorted(map(str, where.glob("*.tar")))
    data = (
        wds.WebDataset(shards, resampled=True, shardshuffle=False)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(transform_of(folder), int)
        .batched(folder.batch_size, partial=False)
    )
    return _endless(wds.WebLoader(data, batch_size=None, num_workers=workers, persistent_workers=True))


def mosaicml_streaming(folder: Folder, workers: int) -> Iterator[Tensor]:
    from streaming import MDSWriter, StreamingDataset

    transform, where = transform_of(folder), folder.root.with_name(f"{folder.root.name}-streaming")

    class Images(StreamingDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            sample = super().__getitem__(index)
            return transform(opened(sample["image"])), sample["label"]

    if not where.exists():
        with MDSWriter(out=str(where), columns={"image": "bytes", "label": "int"}) as writer:
            for path, label in _labelled(folder):
                writer.write({"image": path.read_bytes(), "label": label})
    data = Images(local=str(where), shuffle=True, batch_size=folder.batch_size)
    return _endless(DataLoader(data, folder.batch_size, drop_last=True, num_workers=workers, persistent_workers=True))


PEERS: dict[str, Callable[[Folder], Iterator[Tensor]]] = {
    "ImageFolder + DataLoader, 0 workers": lambda folder: image_folder(folder, 0),
    "ImageFolder + DataLoader, 2 workers": lambda folder: image_folder(folder, 2),
    "litdata, 2 workers": lambda folder: litdata(folder, 2),
    "webdataset, 2 workers": lambda folder: webdataset(folder, 2),
    "mosaicml-streaming, 2 workers": lambda folder: mosaicml_streaming(folder, 2),
    # Last, as it starts threads, and those before fork.
    "NVIDIA DALI on the CPU, 1 thread": lambda folder: dali(folder, 1),
    "NVIDIA DALI on the CPU, 2 threads": lambda folder: dali(folder, 2),
}


def _labelled(folder: Folder) -> list[tuple[Path, int]]:
    classes = sorted(path.name for path in folder.root.iterdir())
    return [(path, classes.index(path.parent.name)) for path in sorted(folder.root.glob("*/*.jpg"))]


def _endless(loader: Iterable) -> Iterator[Tensor]:
    while True:
        for batch in loader:
            yield batch[0]
