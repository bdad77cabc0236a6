"""The line every benchmark prints first: date, processor, CPUs, load and torch. Without it figures say nothing."""

import datetime
import os
import platform
from pathlib import Path

import torch


def machine_line() -> str:
    """`2026-11-23, AMD EPYC, 2 CPUs, load 0.1; torch 2.15.0, 2 threads`"""
    cpus, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    today = datetime.datetime.now(datetime.UTC).date()
    versions = f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    return f"{today}, {cpu_name()}, {cpus} CPUs, load {load:.1f}; {versions}"


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
