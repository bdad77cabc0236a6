"""Each thing that happens to a sample between its file and the model, measured by itself in this process."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mlcli.data.batches import FileReader, Part
from mlcli.data.source import ImageFilesSamples
from mlcli.engine.contract import AugmentingFeed, Feed, Named
from mlcli.engine.runtime import Runtime
from mlcli.machine.bench.disk import CHUNK, read_cold, read_files
from mlcli.machine.bench.measurements import READ_COLD, READ_WARM, Stage, Timing, repeat

MOST_FILES = 2048  # read for the figures of a single file; the loader's come from as many as the time allows


def reading_stages(reader: FileReader, parts: Sequence[Part], budget_s: float) -> tuple[list[Stage], Tensor]:
    """Bytes cold and warm, and decoding, in one process.

    Returns the stages and the images that were decoded: uint8 [N, C, H, W]. Raises DataError, naming the file.
    """
    indices = torch.cat([part.indices for part in parts])[:MOST_FILES]
    keys = torch.cat([part.keys for part in parts])[:MOST_FILES]
    stages, warm_s = list[Stage](), 0.0
    if isinstance(reader.samples, ImageFilesSamples) and isinstance(reader.samples.root, str):
        paths = [reader.samples.path(index) for index in indices.tolist()]
        cold, note = read_cold(paths, budget_s / 4)
        warm, size = read_files(paths, budget_s / 4)
        stages += [
            Stage(READ_COLD, cold, "comparison", size, note),
            Stage(READ_WARM, warm, "worker", size),
        ]
        warm_s = warm.seconds
    chunks = list(zip(indices.split(CHUNK), keys.split(CHUNK), strict=True))
    began, laps, images = time.perf_counter(), list[float](), list[Tensor]()
    for numbers, of_numbers in [chunks[0], *chunks]:  # the first goes untimed
        lap_began = time.perf_counter()
        images.append(reader(Part(numbers, of_numbers)))
        laps.append(max((time.perf_counter() - lap_began) / len(numbers) - warm_s, 0.0))
        if time.perf_counter() - began > budget_s / 2 and len(laps) > 1:
            break
    what = "decode and crop" if reader.crop else "decode and resize"
    return [*stages, Stage(what if stages else f"read, {what}", Timing.of(laps[1:]), "worker")], torch.cat(images[1:])


def assembly_stage(held: bool, images: Tensor, num: int, targets: Tensor, runtime: Runtime, budget_s: float) -> Stage:
    """Making a batch of `num`: gathering rows where data are held, otherwise copying out of a worker's memory."""
    chosen = torch.randint(len(images), (num,), generator=torch.Generator().manual_seed(0))
    shared, where = images[chosen], chosen.to(runtime.device)
    on_device = targets[torch.arange(len(images)) % len(targets)].to(runtime.device)
    held_inputs = images.to(runtime.device)

    def work() -> int:
        on_device.index_select(0, where)
        if held:
            held_inputs.index_select(0, where)
        elif runtime.device.type == "cuda":
            shared.pin_memory().to(runtime.device, non_blocking=True)
        else:
            shared.to(runtime.device, copy=True)
        runtime.synchronize()
        return num

    name = "gather rows" if held else "take batch from worker"
    note = "" if held else "decoded straight into its place in the batch: nothing to collate"
    return Stage(name, repeat(work, budget_s), "trainer", shared[0].nbytes, note)


def augment_stages(
    augment: Sequence[Named],
    feed_with: Callable[[tuple[Named, ...]], Feed],
    inputs: Tensor,
    part: Part,
    runtime: Runtime,
    budget_s: float,
) -> list[Stage]:
    """All augmentations, then each by name and alone, on samples as they are read.

    feed_with: makes a feed with some of them. inputs: on the device; part: which samples they are.
    """
    if not augment:
        return []
    share = budget_s / (len(augment) + 1)

    def timed(configs: tuple[Named, ...]) -> Timing:
        feed = feed_with(configs)
        assert isinstance(feed, AugmentingFeed)

        def work() -> int:
            feed.changed(inputs, part)
            runtime.synchronize()
            return len(part)

        return repeat(work, share)

    in_order = sorted(augment, key=lambda config: config.name in ("mixup", "cutmix"))  # these come last
    alone = [Stage(config.name, timed((config,)), part=True) for config in in_order]
    return [Stage("augment", timed(tuple(augment))), *alone]


def copy_stages(images: Tensor, runtime: Runtime, budget_s: float) -> list[Stage]:
    """Time copies from RAM to a GPU, pageable and page-locked; no copy if the device is not a GPU."""
    size = images[0].nbytes
    if runtime.device.type != "cuda":
        return [Stage("copy to the device", None, "comparison", size, f"no copy: the device is the {runtime.device}")]
    pinned = images.pin_memory()

    def timed(source: Tensor) -> Timing:
        def work() -> int:
            source.to(runtime.device, non_blocking=True)
            runtime.synchronize()
            return len(source)

        return repeat(work, budget_s / 2)

    return [
        Stage("copy to the GPU, pinned", timed(pinned), "comparison", size, "what the loader does"),
        Stage("copy to the GPU, pageable", timed(images), "comparison", size),
    ]
