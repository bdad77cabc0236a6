"""All about speed that needs a GPU, in eight minutes: what the machine can do, and what mlcli makes of it.

In order of worth: a probe (copy bandwidth, matrix products); no waiting for the device and no recompilation between log
points; mlcli beside a loop by hand; data on the device, in RAM and from files, with the GPU's idle time by events;
detectors; a ladder of precisions, layout and compilation; memory by phase; other trainers. Comparisons alternate and
show medians. Each section may take so long and no longer, row by row, and what there is so far is written after each
row, as Markdown and as JSON: a run that is cut short is no loss. `--tiny` runs all of it with toy sizes on whatever
there is, the CPU included: a rehearsal, whose figures say nothing.

    python benchmarks/gpu.py [--tiny] [--output benchmarks/gpu.md] [--limit-s 480] [--sections probe ladder ...]
"""

import argparse
import gc
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_measures import Idle, Setup, no_sync, peak_mb, rate, synchronize
from machine_line import machine_line
from rounds import alternate, spread, table
from torch import nn
from trainer_overhead import Clock, write_noise
from trainer_peers import PEERS, Batches, Job, missing

from mlcli.data.source import Arrays
from mlcli.engine.evaluate import evaluate_split
from mlcli.engine.meter import Meter
from mlcli.engine.runtime import decide_runtime
from mlcli.experiment import Experiment, config_type
from mlcli.machine.bench.learner import Learner

MODELS: dict[str, tuple[dict[str, Any], int]] = {  # and the batch size
    "MLP 64-128-10": ({"name": "mlp", "hidden": [128]}, 128),
    "LeNet-5": ({"name": "cnn"}, 512),
    "VGG-16": ({"name": "vgg", "depth": 16}, 1024),
    "ResNet-18": ({"name": "resnet", "depth": 18}, 1024),
}
TINY_MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "MLP 64-8-10": ({"name": "mlp", "hidden": [8]}, 32),
    "ResNet-18 x 0.0625": ({"name": "resnet", "depth": 18, "width": 0.0625}, 8),
}
DETECTORS = ("yolo", "ssd", "retinanet", "faster_rcnn")
AUGMENT = [{"name": "random_crop", "padding": 4}, {"name": "horizontal_flip"}]

Rows = Iterator[list[str]]
"""Of a section's table; the first is its head."""


@dataclass
class Bench:
    """device: what is measured. seconds: of one measurement. noise: a folder for 32x32 images."""

    device: torch.device
    tiny: bool
    seconds: float
    rounds: int
    noise: str

    @property
    def models(self) -> dict[str, tuple[dict[str, Any], int]]:
        return TINY_MODELS if self.tiny else MODELS

    @property
    def threads(self) -> int | None:
        """A rehearsal is no reason to take all CPUs."""
        return 1 if self.tiny else None

    @property
    def largest(self) -> tuple[str, dict[str, Any], int]:
        """The last of the models: name, YAML, batch size."""
        name = list(self.models)[-1]
        return (name, *self.models[name])

    def setup(self, model: dict[str, Any], batch: int, *, noise: str = "", **more: Any) -> Setup:
        samples = 2 * batch if self.tiny else max(50_000, 4 * batch)
        train = {"device": self.device.type, "threads": self.threads, **more.pop("train", {})}
        return Setup.of(model, batch, samples, noise or str(Path(self.noise, "few")), train=train, **more)


def probe(b: Bench) -> Rows:
    """What the device can do at best: copying, and matrix products in each format."""
    size = 256 if b.tiny else 8192
    source = torch.randn(size * size, device=b.device)
    target = torch.empty_like(source)
    copies = rate(lambda: target.copy_(source).numel(), b.seconds, b.device)
    yield ["probe", "value"]
    yield ["copy, GB/s read and written", f"{copies * 8 / 1e9:,.0f}"]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        left = torch.randn(size, size, device=b.device, dtype=dtype)  # zeros would run faster than data do

        def multiply(left: torch.Tensor = left) -> int:
            torch.mm(left, left)
            return 1

        products = rate(multiply, b.seconds, b.device)
        yield [f"{size} x {size} product in {str(dtype)[6:]}, TFLOP/s", f"{products * 2 * size**3 / 1e12:,.1f}"]
    if b.device.type == "cuda":
        yield ["device", torch.cuda.get_device_name(b.device)]


def trainers(b: Bench) -> Rows:
    """Samples a second of mlcli's steps beside a loop by hand."""
    yield from _beside_by_hand(b, ())


def peers(b: Bench) -> Rows:
    """Samples a second of other trainers in whole runs beside mlcli's steps and a loop by hand."""
    yield from _beside_by_hand(b, [peer for peer in ("accelerate", "Lightning") if not missing(PEERS[peer][0])])


def _beside_by_hand(b: Bench, others: Sequence[str]) -> Rows:
    yield ["model", "trainer", "samples/s", "x by hand"]
    for name, (model, batch) in b.models.items():
        make = partial(b.setup, model, batch, loader={"cache": "device" if b.device.type == "cuda" else "ram"})
        measures: dict[str, Callable[[], float]] = {
            "by hand": partial(_by_hand, b, make),
            "mlcli": partial(_by_mlcli, b, make),
        }
        if b.device.type == "cuda":
            measures["mlcli, cuda_graphs"] = partial(_by_mlcli, b, partial(make, train={"cuda_graphs": True}))
        measures |= {peer: partial(_peer, peer, make, 20 if b.tiny else 300) for peer in others}
        found = alternate(measures, b.rounds)
        for trainer, values in found.items():
            ratios = [value / hand for value, hand in zip(values, found["by hand"], strict=True)]
            yield [name, trainer, spread(values), spread(ratios, ".3f")]


def _by_hand(b: Bench, make: Callable[[], Setup]) -> float:
    return rate(make().by_hand(), b.seconds, b.device)


def _by_mlcli(b: Bench, make: Callable[[], Setup]) -> float:
    step, _, close = make().by_mlcli()
    found = rate(step, b.seconds, b.device)
    close()
    return found


def _rates(b: Bench, step: Callable[[], int]) -> list[float]:
    return [rate(step, b.seconds, b.device) for _ in range(b.rounds)]


def _peer(name: str, make: Callable[[], Setup], steps: int) -> float:
    """Samples a second of another trainer, in the precision of the setup where it casts by itself: fp32."""
    setup = make()
    device, train, clock = setup.runtime.device, setup.source.splits["train"], Clock(steps)
    assert isinstance(train, Arrays)
    inputs, labels, size = train.inputs.to(device), train.targets.to(device), setup.batch

    def one(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        if number in (10, steps - 1):  # where the clock starts and stops
            synchronize(device)
        rows = torch.randint(len(labels), (size,), device=device)
        return inputs.index_select(0, rows), labels.index_select(0, rows)

    net = Cast(setup.runtime.place(setup.task.model), setup)
    batches = Batches(lambda: clock.over(map(one, range(steps))), steps)
    with tempfile.TemporaryDirectory() as folder:
        PEERS[name][1](Job(net, batches, 0.01, False, folder, device))
    return size / clock.us_per_step * 1e6


class Cast(nn.Module):
    """A model whose forward pass runs in the precision of a setup, as its own trainer would run it."""

    def __init__(self, model: nn.Module, setup: Setup) -> None:
        super().__init__()
        self.model, self.autocast = model, setup.runtime.autocast

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        with self.autocast():
            return self.model(inputs).float()


def ladder(b: Bench) -> Rows:
    """The largest model, faster rung by rung: format of numbers, layout of images, compilation."""
    name, model, batch = b.largest
    cuda = b.device.type == "cuda"
    rungs: dict[str, dict[str, Any]] = {"fp32": {"precision": "fp32", "channels_last": False}}
    rungs |= {"tf32": {"precision": "tf32", "channels_last": False}} if cuda else {}
    rungs["bf16"] = {"precision": "bf16", "channels_last": False}
    rungs["bf16, channels_last"] = {"precision": "bf16", "channels_last": True}
    rungs |= {"fp16, channels_last": {"precision": "fp16", "channels_last": True}} if cuda else {}
    rungs |= {} if b.tiny else {"bf16, channels_last, compiled": {**rungs["bf16, channels_last"], "compile": True}}
    yield [f"{name}, batches of {batch}", "images/s", "x fp32", "first step, s", "peak MB"]
    first = 0.0
    for title, train in rungs.items():
        step, _, close = b.setup(model, batch, train=train).by_mlcli()
        began = time.perf_counter()
        step()
        synchronize(b.device)
        first_s = time.perf_counter() - began
        values, peak = peak_mb(b.device, partial(_rates, b, step))
        close()
        first = first or sorted(values)[len(values) // 2]
        yield [title, spread(values), f"{sorted(values)[len(values) // 2] / first:.2f}", f"{first_s:.1f}", peak]
        _free(b)


def caches(b: Bench) -> Rows:
    """Where the data are: images a second, time spent waiting for them, and how long the device is idle."""
    name, model, batch = b.largest
    files = Path(b.noise, "many")
    write_noise(files, 16 if b.tiny else 512)  # enough of them for several batches of an epoch
    yield [f"loader.cache, {name}, crop and flip", "images/s", "waiting for data", "device idle"]
    places = [("ram", False), ("none", False)]
    if b.device.type == "cuda":
        places = [("device", False), ("device", True), *places, ("ram", True)]
    for cache, ahead in places:
        more: dict[str, Any] = {"loader": {"cache": cache, "ahead": ahead}, "augment": AUGMENT}
        setup = b.setup(model, batch, noise=str(files), **more)
        if cache != "none":  # the files themselves, read over and over
            setup.task.source = setup.source
        feed = setup.task.feed(setup.runtime)
        learner, idle, meter = Learner(setup.task, setup.config, setup.runtime, feed), Idle(b.device), Meter()
        batches = idle.over(feed.train_batches(0))
        found = rate(partial(learner.step, batches, meter), b.seconds, b.device)
        feed.close()
        yield [cache + ", ahead" * ahead, f"{found:,.0f}", f"{meter.span().wait_share:.1%}", f"{idle.share:.1%}"]
        _free(b)


def detectors(b: Bench) -> Rows:
    """Training detectors on made scenes."""
    size, batch = (64, 2) if b.tiny else (320, 64)
    yield [f"detector, {size} x {size}, batches of {batch}", "images/s", "precision", "peak MB"]
    for model in DETECTORS[:1] if b.tiny else DETECTORS:
        plain = {"task": "detection", "data": {"name": "scenes", "image_size": size, "images": max(20, 2 * batch)},
                 "augment": [{"name": "horizontal_flip"}], "model": {"name": model},
                 "train": {"batch_size": batch, "device": b.device.type, "threads": b.threads}}  # fmt: skip
        config: Any = config_type("detection").model_validate(plain)
        task, runtime = Experiment(config, "").build(), decide_runtime(config)
        feed, meter = task.feed(runtime), Meter()
        learner, batches = Learner(task, config, runtime, feed), feed.train_batches(0)
        found, peak = peak_mb(b.device, partial(_rates, b, partial(learner.step, batches, meter)))
        feed.close()
        yield [model, spread(found, ",.1f"), runtime.precision, peak]
        _free(b)


def memory(b: Bench) -> Rows:
    """Most memory held in each phase, and in fewer samples at a time."""
    name, model, batch = b.largest
    yield [f"{name}, batches of {batch}", "model, MB", "first step, MB", "second step, MB", "evaluation, MB"]
    for accumulate in (1, 4):
        setup = b.setup(model, batch, train={"accumulate": accumulate})
        setup.task.source = setup.source
        feed = setup.task.feed(setup.runtime)
        _, placed = peak_mb(b.device, partial(setup.runtime.place, setup.task.model))
        learner, batches, meter = Learner(setup.task, setup.config, setup.runtime, feed), feed.train_batches(0), Meter()
        step = partial(learner.step, batches, meter)
        peaks = [peak_mb(b.device, step)[1] for _ in range(2)]  # the optimizer's state appears in the first
        judge = partial(evaluate_split, setup.task, learner.stepper.state.net, feed, "val", setup.runtime)
        peaks = [placed, *peaks, peak_mb(b.device, judge)[1]]
        feed.close()
        yield [f"accumulate: {accumulate}", *peaks]
        _free(b)


def promises(b: Bench) -> Rows:
    """Between log points nothing waits for the device, and a compiled model is never compiled again."""
    _, model, batch = b.largest
    yield ["promise", "kept"]
    step, _, close = b.setup(model, batch).by_mlcli()
    for _ in range(3):
        step()
    with no_sync(b.device):
        kept = _kept(lambda: [step() for _ in range(30)], b)
    yield ["30 steps without waiting for the device", kept]
    close()
    if b.tiny:
        yield ["no recompilation", "not tried with --tiny"]
        return
    step, _, close = b.setup(model, batch, train={"compile": True}).by_mlcli()
    for _ in range(5):
        step()
    with torch.compiler.set_stance("fail_on_recompile"):
        epochs = 2 * (50_000 // batch) + 2
        kept = _kept(lambda: [step() for _ in range(epochs)], b)
    yield [f"no recompilation in {epochs} steps", kept]
    close()


def _kept(work: Callable[[], Any], b: Bench) -> str:
    try:
        work()
    except RuntimeError as error:
        return f"no: {str(error).splitlines()[0][:100]}"
    return "yes" if b.device.type == "cuda" else "not to be seen on the CPU"


def _free(b: Bench) -> None:
    gc.collect()
    if b.device.type == "cuda":
        torch.cuda.empty_cache()


SECTIONS: dict[str, tuple[Callable[[Bench], Rows], float]] = {
    "probe": (probe, 15),
    "promises": (promises, 60),
    "trainers": (trainers, 60),
    "caches": (caches, 50),
    "detectors": (detectors, 90),
    "ladder": (ladder, 90),
    "memory": (memory, 40),
    "peers": (peers, 75),
}
"""By worth, each with the seconds it may take: after those no row is begun, nor after those of the whole."""


class Page:
    """The tables so far, written after each row: Markdown for people, and the same in JSON beside it."""

    def __init__(self, output: Path, machine: str) -> None:
        self.output, self.machine = output, machine
        self.sections: dict[str, dict[str, Any]] = {}

    def write(self) -> None:
        self.output.with_suffix(".json").write_text(
            json.dumps({"machine": self.machine, "sections": self.sections}, indent=1) + "\n"
        )
        texts = [self.text(name) for name in self.sections]
        self.output.write_text("\n\n".join([self.machine, *texts]) + "\n")

    def text(self, name: str) -> str:
        section = self.sections[name]
        parts = [f"### {name}", section["about"]]
        parts += [table(section["head"], section["rows"])] if section["head"] else []
        return "\n\n".join(parts + ([section["note"]] if section["note"] else []))


def measure(b: Bench, page: Page, name: str, whole_left_s: float) -> None:
    """Fill a section row by row, for as long as it and the whole may take. What fails is a note of the section."""
    rows, cap_s = SECTIONS[name]
    began, left_s = time.perf_counter(), min(cap_s, whole_left_s)
    section = page.sections[name] = {"about": rows.__doc__, "head": [], "rows": [], "note": "", "seconds": 0.0}
    if left_s <= 0:
        section["note"] = "left out: no time was left"
    try:
        for row in rows(b) if left_s > 0 else ():
            if section["head"]:
                section["rows"].append(row)
            else:
                section["head"] = row
            section["seconds"] = round(time.perf_counter() - began, 1)
            page.write()
            if section["seconds"] > left_s and not b.tiny:
                section["note"] = f"cut short after {section['seconds']:.0f} s"
                break
    except Exception:  # what fails must not take the other sections with it
        section["note"] = f"```\n{traceback.format_exc(limit=-3)}```"
    page.write()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--tiny", action="store_true", help="toy sizes, on the CPU too; the figures say nothing")
    arguments.add_argument("--output", type=Path, default=Path(__file__).with_name("gpu.md"))
    arguments.add_argument("--limit-s", type=float, default=480)
    arguments.add_argument("--sections", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    chosen = arguments.parse_args()
    if not (chosen.tiny or torch.cuda.is_available()):
        raise SystemExit("no CUDA device: nothing to measure; --tiny rehearses on the CPU")
    began, device = time.perf_counter(), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    page = Page(chosen.output, machine_line() + ("; a rehearsal, the figures say nothing" if chosen.tiny else ""))
    print(f"{page.machine}\n")
    with tempfile.TemporaryDirectory() as noise:
        write_noise(Path(noise, "few"))
        b = Bench(device, chosen.tiny, *((0.02, 1) if chosen.tiny else (1.0, 3)), noise)
        for name in chosen.sections:
            measure(b, page, name, chosen.limit_s - (time.perf_counter() - began))
            _free(b)
            print(f"{page.text(name)}\n", flush=True)


if __name__ == "__main__":
    main()
