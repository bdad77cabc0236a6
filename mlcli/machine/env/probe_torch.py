"""PyTorch's report of itself and of what it computes, as lines of JSON: a program that runs in a process of its own.

A broken PyTorch can raise, crash or hang on import, so nothing else imports it here, and this file imports nothing of
mlcli. Each line is printed at once: what was found out before a crash is kept, and the last `stage` says where it was.
Standard input is a pipe that the asking process holds open and never writes to: at its end this program ends too.
"""

import contextlib
import ctypes
import datetime
import importlib.util
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOLERANCE = {"fp32": 2e-3, "fp16": 1e-2, "bf16": 5e-2}
"""Largest difference allowed, as a share of the largest value. For fp32 it allows TF32, which keeps 10 bits."""
SUM_NUMBERS, SUM_TRIES = 8_000_000, 5
"""Numbers of fp32 summed over processes at once, as in training (32 MB), and how often; the fastest counts."""
SUM_WITHIN_S = {"gloo": 30.0, "nccl": 60.0}
"""Until the processes must have ended; healthy ones take half a second, or as long as importing torch and starting CUDA
takes on several GPUs."""
PR_SET_PDEATHSIG = 1
"""Constant of <linux/prctl.h>."""

Report = Callable[..., None]
"""Write facts to the report as one line."""


def main() -> None:
    _die_with_parent()
    # Libraries print to stdout as they please; the report keeps it for itself.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def report(**facts: Any) -> None:
        lines.write(json.dumps(facts) + "\n")
        lines.flush()

    report(stage="import torch")
    try:
        import torch
    except BaseException as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "torch"
        report(state="missing" if missing else "import failed", error=_text(error))
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    _report_build(torch, report)
    devices = _report_devices(torch, report)
    vision = _report_vision(report)
    for device in devices:
        _report_kernels(torch, vision, device, report)
    _report_sums(torch, report)
    report(stage="")


def _die_with_parent() -> None:
    """A session of its own gets no Ctrl+C, and nothing would end a hanging PyTorch once the parent was killed."""
    _be_killed_with_parent()  # a thread cannot run while PyTorch hangs with Python's lock held, as in the driver
    parent = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nothing that PyTorch starts is to read the pipe

    def watch() -> None:  # works on every system, and if the parent died before the call above
        os.read(parent, 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _be_killed_with_parent() -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _report_build(torch: Any, report: Report) -> None:
    report(stage="ask for the build", version=str(torch.__version__), cuda=torch.version.cuda or "")
    questions: dict[str, Callable[[], Any]] = {
        "hip": lambda: torch.version.hip or "",
        # get_arch_list() is empty where CUDA does not start; the flags never are.
        "codes": lambda: torch._C._cuda_getArchFlags().split() if torch.version.cuda else [],
        "nccl": lambda: bool(torch.distributed.is_available() and torch.distributed.is_nccl_available()),
        "nccl_version": lambda: ".".join(map(str, torch.cuda.nccl.version())) if torch.version.cuda else "",
        "mps_available": lambda: bool(torch.backends.mps.is_available()),
        "cudnn": lambda: torch.backends.cudnn.version(),
    }
    for key, ask in questions.items():
        report(stage="load cuDNN" if key == "cudnn" else "ask for the build")
        with contextlib.suppress(Exception):
            report(**{key: ask()})


def _report_devices(torch: Any, report: Report) -> list[str]:
    """Start CUDA. Returns the devices that computations are tried on."""
    if torch.version.cuda or torch.version.hip:
        report(stage="start CUDA")
        report(cuda_available=bool(torch.cuda.is_available()))
        try:
            torch.cuda.init()
            count = torch.cuda.device_count()
            report(device_count=count)
            pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
            report(no_peer_access=[f"{a}-{b}" for a, b in pairs if not torch.cuda.can_device_access_peer(a, b)])
        except Exception as error:
            report(cuda_error=_text(error))
    with contextlib.suppress(Exception):
        if torch.cuda.is_available():
            return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        if torch.backends.mps.is_available():
            return ["mps"]
    return ["cpu"]


def _report_vision(report: Report) -> Any:
    report(stage="import torchvision")
    try:
        import torchvision

        report(vision_version=str(torchvision.__version__))
        return torchvision
    except Exception as error:
        report(vision_error=_text(error))
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for library in sorted(Path(folder).glob("_C*.so")):
            try:
                ctypes.CDLL(str(library))
            except OSError as error:
                report(vision_library_error=_text(error))
    return None


def _report_kernels(torch: Any, vision: Any, device: str, report: Report) -> None:
    """Each computation on the device, compared with float64 on the CPU. `is_available()` alone proves nothing."""
    computations: list[tuple[str, Callable[[], str]]] = [
        *((f"matmul {name}", lambda name=name: _matmul(torch, device, name)) for name in TOLERANCE),
        ("convolution", lambda: _convolution(torch, device)),
        ("NMS", lambda: _nms(torch, vision, device)),
        ("optimizer step", lambda: _optimizer_step(torch, device)),
    ]
    for name, compute in computations:
        report(stage=f"{name} on {device}")
        if name == "NMS" and vision is None:
            outcome, detail = "skipped", "torchvision does not load"
        elif name == "matmul bf16" and device.startswith("cuda") and torch.cuda.get_device_capability(device) < (8, 0):
            outcome, detail = "skipped", "made for capability 8.0 and newer"
        else:
            try:
                detail = compute()
                outcome = "wrong" if detail else "ok"
            except Exception as error:
                outcome, detail = "failed", _text(error)
        report(kernel={"device": device, "name": name, "outcome": outcome, "detail": detail})


def _report_sums(torch: Any, report: Report) -> None:
    """Sums over processes, compared with the sum, by what training in several of them uses: gloo between CPUs, NCCL
    between GPUs."""
    report(stage="ask for torch.distributed")
    dist = torch.distributed
    counts = {"gloo": 2, "nccl": torch.cuda.device_count()}
    for backend, count in counts.items():
        if backend == "nccl" and (count < 2 or not (dist.is_available() and dist.is_nccl_available())):
            continue
        report(stage=f"sum over {count} processes by {backend}")
        found = {"backend": backend, "processes": count, "size_bytes": 4 * SUM_NUMBERS}
        if not dist.is_available() or (backend == "gloo" and sys.platform != "linux"):
            found |= {"outcome": "skipped", "detail": "tried on Linux only, with torch.distributed"}
        else:
            try:
                found |= _sum_over_processes(backend, count)
            except Exception as error:
                found |= {"outcome": "failed", "detail": _text(error)}
        report(sum=found)


def _sum_over_processes(backend: str, count: int) -> dict[str, Any]:
    """Outcome, and what the fastest sum took, from processes that are gone in the end however it goes."""
    # A process with CUDA started cannot be forked for more of it; the others need not import torch again.
    context: Any = multiprocessing.get_context("fork" if backend == "gloo" else "spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_sum, args=(backend, rank, count, folder), daemon=True) for rank in range(count)
        ]
        for process in processes:
            process.start()
        deadline = time.monotonic() + SUM_WITHIN_S[backend]
        for process in processes:
            process.join(max(deadline - time.monotonic(), 0))
        is_late = any(process.is_alive() for process in processes)
        for process in processes:
            process.kill()
            process.join(5)
        if is_late:
            return {"outcome": "failed", "detail": f"no end after {SUM_WITHIN_S[backend]:g} s"}
        answers = [json.loads(path.read_text()) for path in sorted(Path(folder).glob("*.json"))]
    said = [answer["error"] for answer in answers if answer["error"]]
    died = [f"process {rank} ended with {p.exitcode}" for rank, p in enumerate(processes) if p.exitcode]
    if said or died:
        return {"outcome": "failed", "detail": "; ".join(said or died)}
    off = max(answer["off"] for answer in answers)
    seconds = max(answer["seconds"] for answer in answers)
    sent = 2 * (count - 1) / count * 4 * SUM_NUMBERS
    found = {"outcome": "wrong", "detail": f"off by {off:g}"} if off else {"outcome": "ok"}
    return {**found, "seconds": seconds, "mb_s": sent / seconds / 1e6}


def _sum(backend: str, rank: int, count: int, folder: str) -> None:
    """One of the processes. Leaves an answer in the folder: how far off the sum is, and the seconds it took."""
    _be_killed_with_parent()
    answer: dict[str, Any] = {"error": ""}
    try:
        import torch
        import torch.distributed as dist

        device = torch.device("cpu")
        if backend == "nccl":
            device = torch.device("cuda", rank)
            torch.cuda.set_device(device)
        elif sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # as for processes of one machine that train
        store = dist.FileStore(os.path.join(folder, "store"), count)
        patience = datetime.timedelta(seconds=SUM_WITHIN_S[backend] / 2)
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=patience)
        ramp = torch.arange(SUM_NUMBERS, device=device, dtype=torch.float32) % 1000  # sums of these are exact
        ready, seconds = torch.zeros(1, device=device), list[float]()
        for _ in range(SUM_TRIES):
            values = ramp + rank
            dist.all_reduce(ready)
            ready.item()  # on a GPU, waits for it
            began = time.perf_counter()
            dist.all_reduce(values)
            values[0].item()
            seconds.append(time.perf_counter() - began)
        off = (values - count * ramp - count * (count - 1) / 2).abs().max().item()
        answer |= {"off": off, "seconds": min(seconds)}
        dist.destroy_process_group()
    except Exception as error:
        answer["error"] = _text(error)
    Path(folder, f"{rank}.json").write_text(json.dumps(answer))


def _matmul(torch: Any, device: str, name: str) -> str:
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]
    a, b = (_random(torch, 96, 96, seed=seed) for seed in (1, 2))
    return _compare(a @ b, a.to(device, dtype) @ b.to(device, dtype), TOLERANCE[name])


def _convolution(torch: Any, device: str) -> str:
    images, filters = _random(torch, 4, 8, 16, 16, seed=3), _random(torch, 16, 8, 3, 3, seed=4)
    got = torch.nn.functional.conv2d(images.to(device, torch.float32), filters.to(device, torch.float32), padding=1)
    return _compare(torch.nn.functional.conv2d(images, filters, padding=1), got, TOLERANCE["fp32"])


def _nms(torch: Any, vision: Any, device: str) -> str:
    """Of 32 pairs of boxes far from one another, each overlapping by 0.68, the better ones are kept, best first."""
    corners = 20.0 * torch.arange(32)[:, None].expand(-1, 2)
    boxes_xyxy = torch.cat([torch.cat([low, low + 10], 1) for low in (corners, corners + 1)])
    scores = torch.arange(64) / 64
    kept = vision.ops.nms(boxes_xyxy.to(device), scores.to(device), 0.5).tolist()
    return "" if kept == list(range(63, 31, -1)) else "keeps other boxes than the definition says"


def _optimizer_step(torch: Any, device: str) -> str:
    def weights_after_step(where: str, dtype: Any) -> Any:
        nn = torch.nn
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
        with torch.no_grad():
            for number, weight in enumerate(model.parameters()):
                weight.copy_(_random(torch, *weight.shape, seed=10 + number) / 10)
        model.to(where, dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        targets = (torch.arange(8) % 5).to(where)
        loss = nn.functional.cross_entropy(model(_random(torch, 8, 3, 8, 8, seed=8).to(where, dtype)), targets)
        loss.backward()
        optimizer.step()
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    want, got = weights_after_step("cpu", torch.float64), weights_after_step(device, torch.float32)
    return _compare(want, got, TOLERANCE["fp32"])


def _compare(want: Any, got: Any, tolerance: float) -> str:
    off = float((got.cpu().double() - want).abs().max() / want.abs().max())
    return "" if off <= tolerance else f"off by {off:.1e} of the largest value, at most {tolerance:.0e} is rounding"


def _random(torch: Any, *shape: int, seed: int) -> Any:
    """float64 on the CPU; moved to the device and rounded there by the caller. MPS has no float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float().double()


def _text(error: BaseException) -> str:
    first = re.split(r"\n\s*\n|\nFor debugging|\nCUDA kernel errors", str(error).strip())[0]
    return f"{type(error).__name__}: {' '.join(first.split())[:400]}"


if __name__ == "__main__":
    main()
