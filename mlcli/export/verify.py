"""An exported file run beside the model it was made of, on samples of the run's own validation split."""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from mlcli.engine.contract import Batch
from mlcli.errors import UserError
from mlcli.export.facts import Facts
from mlcli.export.file import random_inputs
from mlcli.export.write import Form
from mlcli.saved import SavedTask
from mlcli.tasks.exporting import Check, Exportable
from mlcli.text import number, size

SAMPLES = 64
"""Most that both are run on."""
SHAKEN = 1e-5
"""Share of each weight that it is changed by, to see what is a tie for the model itself."""
ROUNDS = 3
"""Of which the fastest is the time of a sample."""

Outputs = list[np.ndarray]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Verified:
    """rows: of the table, each a name, the model's value, the file's and the bar. on: what both were run on."""

    rows: list[list[str]]
    passed: bool
    on: str


def verify(
    predictor: Any, run_file: Callable[[np.ndarray], Outputs], found: SavedTask | UserError, sizes: tuple[int, int]
) -> Verified:
    """Run both on the same samples.

    Args:
        predictor: an `Exportable` with its model on the CPU.
        run_file: outputs of the file for inputs.
        found: the run's task with its data, or why they cannot be had; then both are given noise.
        sizes: bytes of the model's weights and of the file.
    """
    if isinstance(found, UserError):
        noise = torch.from_numpy(random_inputs(predictor.info.input_shape, predictor.info.kind, SAMPLES))
        batches, scored = [Batch(noise, torch.zeros(SAMPLES), torch.arange(SAMPLES))], ""
        on = f"{SAMPLES} samples of noise, as the data cannot be had: {found.what}"
    else:
        split = "val" if "val" in found.task.splits else "train"
        batches, scored = _samples(found, split), split
        on = f"{sum(map(len, batches))} samples of {split}"
    ours, our_bytes = _with_growth(lambda: _outputs(predictor, batches))
    theirs, their_bytes = _with_growth(lambda: _run(run_file, batches))
    checks: list[Check] = predictor.compare(
        _joined(ours),
        _joined(theirs),
        lambda seed: _joined(_outputs(predictor, batches, _shaken(predictor.model, seed))),
    )
    finite = all(np.isfinite(part).all() for parts in theirs for part in parts)
    if not finite:
        checks.append(Check("finite", "no", "yes", False))
    rows = [[check.name, "", check.value, check.bar] for check in checks]
    if scored and not isinstance(found, UserError):
        rows += _scores(predictor, found, scored, batches, ours, theirs)
    times = [_seconds(lambda: _outputs(predictor, batches[:1])), _seconds(lambda: _run(run_file, batches[:1]))]
    rows.append(["ms a sample", *(f"{1000 * each / len(batches[0]):.3g}" for each in times), ""])
    if our_bytes is not None and their_bytes is not None:
        rows.append(["memory to answer", size(our_bytes), size(their_bytes), ""])
    rows.append(["size", *map(size, sizes), ""])
    return Verified(rows, all(check.passed for check in checks), on)


def facts_of(predictor: Exportable, saved: dict[str, Any], run: str, form: Form) -> Facts:
    """Return what the file is to say of itself. saved: the checkpoint."""
    versions = saved.get("versions", {})
    return Facts(
        format=1, mlcli=versions.get("mlcli", ""), torch=torch.__version__, task=saved["config"]["task"],
        run=run, epoch=saved["epoch"], model=_without_paths(saved["config"]["model"]),
        answers=predictor.answer_facts(), batch=form.batch, precision=form.precision,
    )  # fmt: skip


def _without_paths(section: dict[str, Any]) -> dict[str, Any]:
    """A section without the paths of the machine it was trained on, which are nobody's business."""
    return {
        key: _without_paths(value) if isinstance(value, dict) else value
        for key, value in section.items()
        if not (isinstance(value, str) and Path(value).is_absolute())
    }


def _samples(found: SavedTask, split: str) -> list[Batch]:
    """The first samples of a split, as the model gets them."""
    feed, batches, left = found.feed(), list[Batch](), SAMPLES
    try:
        for batch in feed.eval_batches(split):
            batches.append(batch[slice(left)])
            left -= len(batches[-1])
            if left <= 0:
                break
    finally:
        feed.close()
    return batches


def _outputs(predictor: Any, batches: Sequence[Batch], model: nn.Module | None = None) -> list[Outputs]:
    with torch.inference_mode():
        net = predictor.model if model is None else model
        found = [predictor.outputs_of(predictor.predict(net, batch.inputs.cpu())) for batch in batches]
    return [[part.numpy() for part in parts] for parts in found]


def _shaken(model: nn.Module, seed: int) -> nn.Module:
    """A copy, each weight changed at random by a share of it: more than rounding does, and less than means anything."""
    shaken, generator = deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in shaken.parameters():
            weight.mul_(1 + SHAKEN * torch.randn(weight.shape, generator=generator))
    return shaken


def _run(run_file: Callable[[np.ndarray], Outputs], batches: Sequence[Batch]) -> list[Outputs]:
    return [run_file(batch.inputs.cpu().numpy()) for batch in batches]


def _joined(parts: list[Outputs]) -> Outputs:
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


def _scores(
    predictor: Any, found: SavedTask, split: str, batches: list[Batch], ours: list[Outputs], theirs: list[Outputs]
) -> list[list[str]]:
    """The task's own metric of both on these samples."""
    values = []
    for outputs in (ours, theirs):
        metrics = found.task.metrics(split)
        for batch, parts in zip(batches, outputs, strict=True):
            device = found.runtime.device
            predictions = predictor.predictions_of([torch.from_numpy(part).to(device) for part in parts])
            metrics.update(predictions, batch)
        values.append(metrics.compute()[found.task.primary])
    return [[f"{found.task.primary.replace('_', ' ')} on them", *map(number, values), ""]]


def _with_growth(work: Callable[[], Result]) -> tuple[Result, int | None]:
    """What it returns, and by how many bytes this process grew meanwhile at most, which Linux alone can say.

    Of a first time: what a library keeps for the next one is no growth any more.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; proc(5)
        before, _ = _resident_and_peak()
    except (OSError, KeyError):
        return work(), None
    done = work()
    return done, max(_resident_and_peak()[1] - before, 0)


def _resident_and_peak() -> tuple[int, int]:
    """Bytes of memory that this process holds, and held at most. Raises OSError or KeyError where nobody tells."""
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(told["VmRSS"].split()[0]), 1024 * int(told["VmHWM"].split()[0])


def _seconds(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
