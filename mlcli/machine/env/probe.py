"""Gather the facts of this machine. Each is queried on its own: one that fails or hangs stops no other.

No torch in here: PyTorch is asked in a process of its own (probe_torch.py), which may crash or hang as it likes.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlcli.machine.env.facts import Facts, GpuFacts, HostFacts, Kernel, PythonFacts, SumOverProcesses, TorchFacts
from mlcli.machine.env.probe_system import (
    Questions,
    cold_read_mb_s,
    gpu_questions,
    host_questions,
    python_questions,
    sizes,
)

PROBE = Path(__file__).with_name("probe_torch.py")
ANSWER_WITHIN_S = 5.0
"""A dead network mount or a wedged driver never answers; a healthy one takes milliseconds."""
TORCH_TIMEOUT_S = 120.0
"""Importing PyTorch from a cold network disk takes a minute; starting CUDA on 8 GPUs some 10 s."""


def probe_machine(root: Path = Path("/"), folder: Path | None = None) -> Facts:
    """Everything but PyTorch: a fraction of a second. `root` holds proc, sys, dev and etc."""
    parts = {
        "host": host_questions(root, folder or Path.cwd()),
        "gpu": gpu_questions(root),
        "python": python_questions(),
    }
    answers, unknown = ask_all({f"{part}.{key}": ask for part, asked in parts.items() for key, ask in asked.items()})
    answers |= {f"gpu.{key}": value for key, value in answers.pop("gpu.nvml", {}).items()}
    host, gpu, python = (
        {key.removeprefix(f"{part}."): value for key, value in answers.items() if key.startswith(f"{part}.")}
        for part in parts
    )
    return Facts(HostFacts(**host), GpuFacts(**gpu), PythonFacts(**python), unknown=unknown)


def probe_torch_too(facts: Facts) -> Facts:
    """The same facts with those that take seconds: what PyTorch reports, how fast the folder's disk reads, and what the
    packages take of it."""
    questions: Questions = {"python.sizes": sizes}
    if folder := facts.host.folder:
        questions["host.read speed"] = lambda: cold_read_mb_s(Path(folder.path))
    answers, unknown = ask_all(questions)
    host = facts.host
    if folder:
        measured = dataclasses.replace(folder, cold_read_mb_s=answers.get("host.read speed"))
        host = dataclasses.replace(host, folder=measured)
    python = dataclasses.replace(facts.python, **answers.get("python.sizes", {}))
    facts = dataclasses.replace(facts, host=host, python=python, unknown=facts.unknown + unknown)
    return dataclasses.replace(facts, torch=probe_torch())


def ask_all(questions: Questions, within_s: float = ANSWER_WITHIN_S) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The answers that came, and for the others why not. Each is asked in a thread of its own, which may hang."""
    answers: dict[str, Any] = {}
    failures: dict[str, str] = {}

    def put(key: str, ask: Callable[[], Any]) -> None:
        try:
            answers[key] = ask()
        except Exception as error:
            failures[key] = f"{type(error).__name__}: {error}"

    threads = {key: threading.Thread(target=put, args=(key, ask), daemon=True) for key, ask in questions.items()}
    for thread in threads.values():
        thread.start()
    deadline = time.monotonic() + within_s
    for thread in threads.values():
        thread.join(max(deadline - time.monotonic(), 0))
    answered = dict(answers)  # a late answer must not change it any more
    late = f"no answer within {within_s:g} s"
    return answered, tuple(f"{key}: {failures.get(key, late)}" for key in threads if key not in answered)


def probe_torch(timeout_s: float = TORCH_TIMEOUT_S, environment: Mapping[str, str] | None = None) -> TorchFacts:
    """Ask PyTorch in a process of its own; what it reported before it crashed or hung is kept."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(  # -P: of Python files lying around none is PyTorch
            [sys.executable, "-P", str(PROBE)],
            stdin=subprocess.PIPE,  # never written to; closed when we end, on which the process ends too
            stdout=out,  # files, not pipes: a grandchild that holds a pipe open would make us wait for it
            stderr=err,
            env=dict(environment) if environment is not None else None,
            start_new_session=True,
        )
        timed_out = False
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):  # a wedged driver holds it inside the kernel
                    process.wait(5)
            process.stdin.close()  # type: ignore[union-attr]
        out.seek(0)
        err.seek(0)
        report = _reported(out.read().decode(errors="replace"))
        last_words = err.read().decode(errors="replace").strip().splitlines()[-1:]
    code = process.returncode
    if timed_out:
        report |= {"state": "timed out", "error": f"no end after {timeout_s:g} s"}
    elif code or ("state" not in report and report.get("stage") != ""):  # 0 alone says nothing: any library may exit
        died_of = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        report = {"stage": "start Python"} | report
        report |= {"state": "crashed", "error": ": ".join([died_of, *last_words])}
    return TorchFacts(**report)


def _reported(text: str) -> dict[str, Any]:
    """The lines of the report, the later ones over the earlier; a line cut off by a crash is left out."""
    report: dict[str, Any] = {}
    kernels: list[Kernel] = []
    sums: list[SumOverProcesses] = []
    for line in text.splitlines():
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        kernels += [Kernel(**facts.pop("kernel"))] if "kernel" in facts else []
        sums += [SumOverProcesses(**facts.pop("sum"))] if "sum" in facts else []
        report |= {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    return report | {"kernels": tuple(kernels), "sums": tuple(sums)}
