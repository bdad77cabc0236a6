"""Pooling of regions: mlcli's RoIAlign beside torchvision's kernel, by itself and in a training's steps, on a CPU.

By itself: 64 regions an image pooled from maps of strides 8, 16 and 32 to 7x7, and 16 to 14x14, and the gradient led
back to the maps. In steps: the trainer's own on the shipped configs, the one or the other pooling in the model.
Alternating order, medians.

    python benchmarks/region_align.py [--images 8] [--rounds 7] [--steps 4] [--threads 2] [--only faster-rcnn mask-rcnn]
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from machine_line import machine_line
from rounds import alternate, spread, table
from torch import nn
from torchvision.ops import MultiScaleRoIAlign

from mlcli.engine.meter import Meter
from mlcli.engine.runtime import decide_runtime
from mlcli.experiment import Experiment
from mlcli.machine.bench.learner import Learner
from mlcli.tasks.detection.models.region_align import RegionAlign

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "detection"
CHANNELS, SIDE = 64, 320
KINDS = {"torchvision's": MultiScaleRoIAlign, "mlcli's": RegionAlign}
POOLED = ((64, 7), (16, 14))
"""Regions an image, and parts along a side that each is pooled to."""


class Pooling:
    """Regions and maps, the same for both kinds."""

    def __init__(self, images: int, regions: int, cells: int) -> None:
        random = torch.Generator().manual_seed(0)
        self.maps = {
            str(level): torch.randn(images, CHANNELS, SIDE // stride, SIDE // stride, generator=random)
            .contiguous(memory_format=torch.channels_last)
            .requires_grad_()
            for level, stride in enumerate((8, 16, 32))
        }
        corners = 0.7 * SIDE * torch.rand(images, regions, 2, generator=random)
        sides = 8 + 0.3 * (SIDE - 8) * torch.rand(images, regions, 2, generator=random)
        self.boxes = list(torch.cat([corners, corners + sides], dim=2))
        self.pools = {
            name: kind([*self.maps], cells, 2, canonical_scale=112, canonical_level=4) for name, kind in KINDS.items()
        }

    def milliseconds(self, name: str) -> tuple[float, float]:
        """Return those of pooling, and of leading the gradient back."""
        began = time.perf_counter()
        parts = self.pools[name](self.maps, self.boxes, [(SIDE, SIDE)] * len(self.boxes))
        pooled = time.perf_counter()
        parts.backward(torch.ones_like(parts))
        return (pooled - began) * 1e3, (time.perf_counter() - pooled) * 1e3


class Steps:
    """A shipped experiment whose steps can be timed with either pooling."""

    def __init__(self, name: str, steps: int, threads: int) -> None:
        path = CONFIGS / f"{name}-scenes.yaml"
        experiment = Experiment.load(path, [f"train.threads={threads}", "train.device=cpu"])
        runtime = decide_runtime(experiment.config)
        task = experiment.build()
        feed = task.feed(runtime)
        self.steps, self.batches = steps, feed.train_batches(0)
        self.learner = Learner(task, experiment.config, runtime, feed)
        self.model = task.model
        task.train_mode(0)

    def milliseconds(self, kind: type[nn.Module]) -> float:
        """Return those of a step, augmentations included."""
        for layer in self.model.modules():
            if isinstance(layer, MultiScaleRoIAlign):
                layer.__class__ = kind
        began = time.perf_counter()
        for _ in range(self.steps):
            self.learner.step(self.batches, Meter())
        return (time.perf_counter() - began) / self.steps * 1e3


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"images": 8, "rounds": 7, "steps": 4, "threads": 2}.items():
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--only", nargs="*", default=["faster-rcnn", "mask-rcnn"])
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"{machine_line()}; median (least - most) of {chosen.rounds} alternating rounds, ms\n")
    rows = []
    for regions, cells in POOLED:
        pooling, title = Pooling(chosen.images, regions, cells), f"{regions * chosen.images} regions to {cells}x{cells}"
        both = alternate({name: partial(pooling.milliseconds, name) for name in KINDS}, chosen.rounds + 2)
        for part, which in enumerate(("pooled", "gradient")):
            rows.append(row(f"{title}, {which}", {name: [one[part] for one in both[name][2:]] for name in KINDS}))
    for name in chosen.only:
        timed = Steps(name, chosen.steps, chosen.threads)
        kinds = {which: partial(timed.milliseconds, kind) for which, kind in KINDS.items()}
        found = alternate(kinds, chosen.rounds + 2)
        rows.append(row(f"a step of {name}-scenes", {which: found[which][2:] for which in KINDS}))
    print(table(["", *KINDS, "times faster"], rows))


def row(title: str, measured: dict[str, list[float]]) -> list[str]:
    theirs, ours = (statistics.median(measured[name]) for name in KINDS)
    return [title, *(spread(measured[name], ".1f") for name in KINDS), f"{theirs / ours:.1f}"]


if __name__ == "__main__":
    main()
