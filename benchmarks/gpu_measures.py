"""What the GPU script measures with: experiments on data in memory, steps by mlcli and by hand, idle time, peaks."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from trainer_overhead import repeated

from mlcli.data.source import Arrays, Source
from mlcli.engine.meter import Meter
from mlcli.engine.runtime import Runtime, decide_runtime
from mlcli.machine.bench.learner import Learner
from mlcli.tasks.classification.build import build_task
from mlcli.tasks.classification.config import Classification
from mlcli.tasks.classification.task import ClassificationTask

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Setup:
    """One experiment, ready to take steps: 8x8 digits for the MLP, 32x32 noise for convolutional networks."""

    task: ClassificationTask
    config: Classification
    runtime: Runtime
    source: Source
    batch: int

    @classmethod
    def of(cls, model: dict[str, Any], batch: int, samples: int, noise: str, **more: Any) -> "Setup":
        """more: sections of the YAML, such as train={...}; `noise` is a folder of 32x32 images."""
        data = {"name": "digits"} if model["name"] == "mlp" else {"name": "folder", "root": noise}
        plain = {"task": "classification", "data": data, "model": model, "loader": more.get("loader", {})}
        plain |= {"optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9}, "augment": more.get("augment", [])}
        config = Classification.model_validate(plain | {"train": {"batch_size": batch, **more.get("train", {})}})
        runtime, task = decide_runtime(config), build_task(config)
        return cls(task, config, runtime, repeated(task, samples), batch)

    def by_mlcli(self) -> tuple[Callable[[], int], Callable[[], float], Callable[[], None]]:
        """mlcli's own step, which returns its samples; the share of time spent waiting for data; what ends it all."""
        self.task.source = self.source
        feed = self.task.feed(self.runtime)
        learner = Learner(self.task, self.config, self.runtime, feed)
        batches, meter = feed.train_batches(0), Meter()
        return (lambda: learner.step(batches, meter)), (lambda: meter.span().wait_share), feed.close

    def by_hand(self) -> Callable[[], int]:
        """The shortest loop that does the same: data on the device, batches by index, the same model and precision."""
        device, train = self.runtime.device, self.source.splits["train"]
        assert isinstance(train, Arrays)
        inputs, labels = train.inputs.to(device), train.targets.to(device)
        net = self.runtime.callable_form(self.runtime.place(self.task.model)).train()
        optimizer = torch.optim.SGD(self.task.model.parameters(), lr=0.01, momentum=0.9, fused=True)
        scaler, size = self.runtime.scaler(), self.batch
        order: list[Tensor] = []

        def step() -> int:
            if not order:
                order.extend(torch.randperm(len(labels), device=device).split(size)[: len(labels) // size])
            rows = order.pop()
            with self.runtime.autocast():
                loss = functional.cross_entropy(net(inputs.index_select(0, rows)), labels.index_select(0, rows))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            return size

        return step


def rate(step: Callable[[], int], seconds: float, device: torch.device, warm_up: int = 5) -> float:
    """Samples a second of `step`, which returns how many it took; the device is waited for at the ends only."""
    for _ in range(warm_up):
        step()
    synchronize(device)
    began, samples, steps = time.perf_counter(), 0, 0
    while time.perf_counter() - began < seconds or steps < 3:
        samples += step()
        steps += 1
        if steps % 50 == 0:
            synchronize(device)  # or a fast host queues up minutes of work
    synchronize(device)
    return samples / (time.perf_counter() - began)


class Idle:
    """How long the device has nothing to do between steps, by events: nothing waits for it meanwhile.

    A step begins when its batch is handed out and ends when the next one is asked for. On the CPU the clock tells.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.gaps_ms, self.steps_ms = device, [0.0], [0.0]

    def over(self, batches: Iterable[Item]) -> Iterator[Item]:
        began, ended = None, None
        for batch in batches:
            now = self._mark()
            if began is not None and ended is not None:
                self.steps_ms.append(self._between(began, ended))
                self.gaps_ms.append(self._between(ended, now))
            began = now
            yield batch
            ended = self._mark()

    @property
    def share(self) -> float:
        return sum(self.gaps_ms) / max(sum(self.gaps_ms) + sum(self.steps_ms), 1e-9)

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, first: Any, second: Any) -> float:
        if self.device.type != "cuda":
            return (second - first) * 1e3
        second.synchronize()  # of the step before: the one after is queued by then
        return first.elapsed_time(second)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_mb(device: torch.device, work: Callable[[], Result]) -> tuple[Result, str]:
    """What `work` returns, and the most memory the GPU held meanwhile, in MB (10**6 bytes); a dash on the CPU."""
    if device.type != "cuda":
        return work(), "-"
    torch.cuda.reset_peak_memory_stats(device)
    result = work()
    torch.cuda.synchronize(device)
    return result, f"{torch.cuda.max_memory_allocated(device) / 1e6:,.0f}"


def no_sync(device: torch.device) -> Any:
    """A context in which waiting for the GPU raises RuntimeError; one that does nothing on the CPU."""
    return _Strict() if device.type == "cuda" else nullcontext()


class _Strict:
    def __enter__(self) -> None:
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_: object) -> None:
        torch.cuda.set_sync_debug_mode("default")
