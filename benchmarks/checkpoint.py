"""How long does training stand still while a checkpoint is saved, and how long until it is safe? VGG16, 553 MB.

    python benchmarks/checkpoint.py [--rounds 5] [--model vgg16] [--folder FOLDER]

Blocking: until the caller has its weights back. Total: until the writer says the file is there; only mlcli, and what is
marked with fsync, has waited for the disk by then, and only mlcli has a checksum and has read the file back. Everything
in turn, in alternating order, into the same folder. The last table is a loop that multiplies matrices in one thread
while a writer is at work: how many times slower its steps are.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
import torchvision
from machine_line import machine_line
from rounds import alternate, spread, table
from torch import Tensor

from mlcli.engine.checkpoint import save_checkpoint
from mlcli.engine.saver import CheckpointSaver

ROUNDS = 5
Weights = dict[str, Tensor]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    arguments.add_argument("--model", default="vgg16", help="of torchvision; squeezenet1_1 for a quick look")
    arguments.add_argument("--folder", type=Path, default=None, help="on the disk to measure; the temporary folder")
    chosen = arguments.parse_args()
    weights = torchvision.models.get_model(chosen.model).state_dict()
    size_mb = sum(tensor.numel() * tensor.element_size() for tensor in weights.values()) / 1e6
    print(f"{machine_line()}; {chosen.rounds} rounds, {size_mb:.0f} MB\n", flush=True)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        saver = CheckpointSaver(Path(folder), 2)
        saved = Saved(saver, weights)
        print(f"first save of a run, into fresh host memory: {saved.blocking_ms():.0f} ms blocking\n", flush=True)
        ways: dict[str, Callable[[], float]] = {
            "mlcli, blocking": saved.blocking_ms,
            "mlcli, total": saved.total_ms,
            "mlcli without its thread": timed(partial(save_checkpoint, Path(folder) / "x.ckpt", {"model": weights})),
            "torch.save": timed(partial(torch.save, weights, f"{folder}/x.pt")),
            "torch.save, fsync": timed(partial(torch_save_to_disk, weights, f"{folder}/x.pt")),
            "safetensors": timed(partial(safetensors.torch.save_file, weights, f"{folder}/x.safetensors")),
        }
        found = alternate(ways, chosen.rounds)
        print(table(("way", "ms"), ([name, spread(values)] for name, values in found.items())))
        slowed = alternate({"alone": step_ms, "beside a save": saved.step_ms}, chosen.rounds)
    ratio = statistics.median(b / a for a, b in zip(slowed["alone"], slowed["beside a save"], strict=True))
    print("\n" + table(("a step of the loop", "ms"), ([name, spread(values)] for name, values in slowed.items())))
    print(f"\nbeside a save, a step takes {ratio:.2f} times as long")


class Saved:
    """mlcli's saving, taken apart."""

    def __init__(self, saver: CheckpointSaver, weights: Weights) -> None:
        self._saver, self._weights, self._step = saver, weights, 0

    def blocking_ms(self) -> float:
        """Until training goes on; the disk is waited for outside of the measurement."""
        blocking_ms = self._hand_over_ms()
        self._saver.wait()
        return blocking_ms

    def total_ms(self) -> float:
        began = time.perf_counter()
        self._hand_over_ms()
        self._saver.wait()
        return (time.perf_counter() - began) * 1e3

    def step_ms(self) -> float:
        """Of a step of the loop while the thread writes."""
        self._hand_over_ms()
        taken_ms = step_ms(steps=20)
        self._saver.wait()
        return taken_ms

    def _hand_over_ms(self) -> float:
        self._step += 1
        began = time.perf_counter()
        self._saver.save(self._step, {"model": self._weights})
        return (time.perf_counter() - began) * 1e3


def step_ms(steps: int = 20) -> float:
    """Median of some products of matrices in one thread, about 20 ms each."""
    threads, matrix, taken = torch.get_num_threads(), torch.ones(1000, 1000), []
    torch.set_num_threads(1)
    for _ in range(steps):
        began = time.perf_counter()
        matrix @ matrix
        taken.append((time.perf_counter() - began) * 1e3)
    torch.set_num_threads(threads)
    return statistics.median(taken)


def timed(save: Callable[[], object]) -> Callable[[], float]:
    def ms() -> float:
        began = time.perf_counter()
        save()
        return (time.perf_counter() - began) * 1e3

    return ms


def torch_save_to_disk(weights: Weights, path: str) -> None:
    torch.save(weights, path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
