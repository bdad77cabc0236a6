"""What is measured by bench-io, and on what: the facts about the data and the machine that its verdict needs."""

import math
import os
from collections.abc import Sequence
from typing import cast

from mlcli.data.augment.build import resized_crop_of
from mlcli.data.files import ImageFilesSamples
from mlcli.data.reading import FileSamples
from mlcli.engine.contract import Task
from mlcli.engine.limits import available_memory_bytes
from mlcli.engine.runtime import Runtime
from mlcli.machine.bench.disk import file_system, shared_memory_bytes
from mlcli.machine.bench.findings import Cache, Data, Machine, Stage


def describe_data(task: Task, data_name: str, runtime: Runtime) -> Data:
    """What the data are and how the YAML has them read. Raises ConfigError where they do not fit."""
    source = task.source
    chosen = {choice.what: choice.value for choice in task.feed(runtime).choices}
    splits, train = source.splits.values(), source.splits["train"]
    samples, is_image = sum(map(len, splits)), source.info.kind == "image"
    return Data(
        name=data_name,
        samples=samples,
        train=len(source.splits["train"]),
        unit="img" if is_image else "rows",
        cache=cast(Cache, chosen["cache"]),
        workers=int(chosen["workers"]),
        in_memory=not any(isinstance(split, FileSamples) for split in splits),
        crops=resized_crop_of(task.augment) is not None,
        bytes_as_tensors=samples * math.prod(source.info.input_shape) * (1 if is_image else 4),
        file_system=file_system(train.root) if isinstance(train, ImageFilesSamples) else "",
    )


def bytes_on_disk(data: Data, stages: Sequence[Stage]) -> int:
    """Of all files, estimated from those that were read; 0 for data without files."""
    size = next((stage.bytes_per_sample for stage in stages if stage.name.startswith("read file")), 0)
    return size * data.samples


def describe_machine(runtime: Runtime, usable: int) -> Machine:
    """usable: CPUs that workers may take."""
    return Machine(
        usable_cpus=usable,
        cpus=os.cpu_count() or 1,
        available_bytes=available_memory_bytes(),
        shm_bytes=shared_memory_bytes(),
        device=runtime.device.type,
        device_name=next(choice.value for choice in runtime.choices if choice.what == "device"),
        precision=runtime.precision,
        threads=runtime.threads,
    )
