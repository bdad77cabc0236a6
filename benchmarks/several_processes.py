"""How much faster do two processes train than one, beside DistributedDataParallel by hand?

Samples a second of whole steps (forward, backward, the sum over processes, the optimizer) of the same batch, cut in
halves; one thread in each process, gloo between them, on as many cores. The loop by hand has batches of its own size
ready and looks at nothing; mlcli takes them from its feed, guards against what is not finite and agrees on stopping.
Each measurement starts its processes anew; they take turns in alternating order. Efficiency: the rate of two processes
by twice the rate of one. Lightning (its Fabric) and accelerate, where they are installed (extra `peers`), wrap the
model and the optimizer of the loop by hand.

    python benchmarks/several_processes.py [--models mlp cnn yolo] [--seconds 4] [--rounds 3] [--quick]
"""

import argparse
import importlib.util
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from machine_line import machine_line
from rounds import alternate, spread, table
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mlcli.engine.distributed import DistributedRanks
from mlcli.engine.evaluate import choose_metric
from mlcli.engine.meter import Meter
from mlcli.engine.processes import Place
from mlcli.engine.ranks import ALONE, Ranks
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.state import TrainingState
from mlcli.engine.step import MicroBatches, Stepper
from mlcli.engine.terms import total
from mlcli.experiment import Experiment

TRAIN = {"epochs": 1, "threads": 1, "device": "cpu", "precision": "fp32"}
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {
        "task": "classification",
        "data": {"name": "digits"},
        "model": {"name": "mlp", "hidden": [512, 512]},
        "train": {**TRAIN, "batch_size": 256},
    },
    "cnn": {
        "task": "classification",
        "data": {"name": "digits"},
        "model": {
            "name": "cnn",
            "blocks": [{"name": "conv", "channels": 32}, {"name": "conv", "channels": 64}, {"name": "pool"}],
        },
        "train": {**TRAIN, "batch_size": 128},
    },
    "yolo": {
        "task": "detection",
        "data": {"name": "scenes", "images": 100},
        "model": {"name": "yolo", "strides": [8, 16]},
        "train": {**TRAIN, "batch_size": 16},
    },
}
BY_HAND, MLCLI, FABRIC, ACCELERATE = "DDP by hand", "mlcli", "Lightning", "accelerate"
PACKAGES = {FABRIC: "lightning", ACCELERATE: "accelerate"}
WARM_UP = 3


def steps_of(model: str, ranks: Ranks, how: str) -> tuple[Callable[[], object], int]:
    """A function that takes one step, and the samples of it over all processes."""
    experiment = Experiment.from_plain({**MODELS[model], "optimizer": {"name": "sgd", "lr": 1e-4}})
    task, runtime = experiment.build(), decide_runtime(experiment.config, ranks)
    config, feed = experiment.config, task.feed(runtime)
    state = TrainingState.start(task, feed, config, runtime, choose_metric(task, None))
    parts = MicroBatches(config.train, state.progress, feed, ranks)
    task.train_mode(0)
    batches, samples = feed.train_batches(0), config.train.samples_per_step
    if how == MLCLI:
        stepper = Stepper(task, state, config, runtime, Meter())
        return lambda: stepper.take(batches, parts.parts, 1e-4), samples
    net, optimizer, backward = wrapped(how, state.model, state.optimizer, ranks)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        backward(total(task.losses(net, next(batches))))
        optimizer.step()

    return step, samples


def wrapped(
    how: str, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> tuple[nn.Module, Any, Callable[[torch.Tensor], object]]:
    """The model and the optimizer for a loop by hand, and what takes the place of `loss.backward()`."""
    if how == FABRIC:
        from lightning.fabric import Fabric

        fabric = Fabric(accelerator="cpu", devices=ranks.size, strategy="ddp" if ranks.size > 1 else "auto")
        fabric.launch()  # which finds that the processes are there
        return *fabric.setup(model, optimizer), fabric.backward
    if how == ACCELERATE:
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=True)
        return *accelerator.prepare(model, optimizer), accelerator.backward
    return DistributedDataParallel(model) if ranks.size > 1 else model, optimizer, torch.Tensor.backward


def work(folder: Path, rank: int, size: int, model: str, how: str, seconds: float) -> None:
    """One process: the rate of the first is written to a file."""
    torch.set_num_threads(1)
    ranks: Ranks = ALONE
    if size > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0,
                 "MASTER_ADDR": "localhost", "MASTER_PORT": 29400, "TORCHELASTIC_RUN_ID": "benchmark"}  # fmt: skip
        os.environ.update((name, str(value)) for name, value in names.items())  # as torchrun does; nobody meets there
        store = dist.FileStore(str(folder / "store"), size)
        ranks = DistributedRanks(Place(rank, size, rank, size), torch.device("cpu"), store)
    step, samples = steps_of(model, ranks, how)
    for _ in range(WARM_UP):
        step()
    began = time.perf_counter()
    step()
    once_s = max(ranks.gathered(time.perf_counter() - began))
    count = max(2, int(seconds / once_s))
    ranks.together(lambda: None)
    began = time.perf_counter()
    for _ in range(count):
        step()
    took_s = max(ranks.gathered(time.perf_counter() - began))
    if rank == 0:
        (folder / "rate").write_text(str(count * samples / took_s))
    ranks.leave(None)


def samples_per_s(model: str, how: str, size: int, seconds: float) -> float:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=work, args=(Path(folder), rank, size, model, how, seconds)) for rank in range(size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        return float((Path(folder) / "rate").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="an MLP for a moment, without the others")
    options = parser.parse_args()
    hows = [BY_HAND, MLCLI]
    if options.quick:
        options.models, options.seconds, options.rounds = ["mlp"], 0.05, 1
    else:
        hows += [how for how, package in PACKAGES.items() if importlib.util.find_spec(package)]
    print(machine_line(), end="\n\n")
    rows = []
    for model in options.models:
        cases = {
            (how, size): partial(samples_per_s, model, how, size, options.seconds) for how in hows for size in (1, 2)
        }
        found = alternate(cases, options.rounds)
        for how in hows:
            one, two = found[how, 1], found[how, 2]
            efficiency = [b / a / 2 for a, b in zip(one, two, strict=True)]
            beside = statistics.median(b / a for a, b in zip(found[BY_HAND, 2], two, strict=True))
            rows.append([f"{model}, {how}", spread(one), spread(two), spread(efficiency, ".2f"), f"{beside:.2f}"])
    print(table(["", "1 process", "2 processes", "efficiency", "2, beside DDP"], rows))


if __name__ == "__main__":
    main()
