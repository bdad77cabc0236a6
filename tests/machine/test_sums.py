"""Sums over processes, as env-check tries them: right, wrong, deadly or without end."""

import json
import multiprocessing
import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from mlcli.machine.env import checks_system, probe_torch
from mlcli.machine.env.chain import Chain, torch_rows
from mlcli.machine.env.facts import SumOverProcesses, TorchFacts
from mlcli.machine.env.probe import _reported
from tests.machine import machines


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(probe_torch, "SUM_NUMBERS", 5000)
    torch.set_num_threads(1)


def report_of_sums() -> TorchFacts:
    lines: list[str] = []
    probe_torch._report_sums(torch, lambda **facts: lines.append(json.dumps(facts)))
    assert multiprocessing.active_children() == []
    return TorchFacts(**_reported("\n".join(lines)))


def gloo(facts: TorchFacts) -> SumOverProcesses:
    return facts.sums[0]


def test_two_processes_come_to_the_sum_and_say_how_fast():
    found = gloo(report_of_sums())
    assert (found.backend, found.processes, found.outcome, found.detail) == ("gloo", 2, "ok", "")
    assert found.size_bytes == 20_000
    assert found.mb_s == pytest.approx(found.size_bytes / found.seconds / 1e6)


def no_sum(values: torch.Tensor) -> None:
    """What a broken library does: nothing."""


def without_end(values: torch.Tensor) -> None:
    time.sleep(60)


def deadly(values: torch.Tensor) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def failing(values: torch.Tensor) -> None:
    raise RuntimeError("no route to host")


@pytest.mark.parametrize(
    ("all_reduce", "outcome", "detail"),
    [
        (no_sum, "wrong", "off by "),
        (without_end, "failed", "no end after 1 s"),
        (deadly, "failed", "process 0 ended with -9; process 1 ended with -9"),
        (failing, "failed", "RuntimeError: no route to host; RuntimeError: no route to host"),
    ],
)
def test_what_goes_wrong_is_told_and_ends(monkeypatch, all_reduce, outcome, detail):
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setitem(probe_torch.SUM_WITHIN_S, "gloo", 1.0 if all_reduce is without_end else 20.0)
    found = gloo(report_of_sums())
    assert found.outcome == outcome
    assert found.detail.startswith(detail)
    (finding,) = checks_system.sums(chain(sums=(found,)))
    assert finding.severity == "warning"
    assert found.detail in finding.text


def chain(**torch_facts) -> Chain:
    return Chain(machines.on(machines.WITH_H200, torch=torch_facts), machines.TABLE)


NCCL = SumOverProcesses("nccl", 4, 32_000_000, "ok", seconds=0.0002, mb_s=240_000.0)


def rows(*, unreadable: tuple[str, ...] = (), nccl: SumOverProcesses = NCCL) -> dict[str, tuple[str, str, str]]:
    known = chain(device_count=4, nccl_version="2.28.9", no_peer_access=unreadable, sums=(nccl,))
    return {row.link: (row.what, row.detail, row.state) for row in torch_rows(known)}


def test_gpus_that_train_together_are_told_of():
    found = rows()
    assert found["P2P"] == ("6 of 6 pairs of GPUs", "read each other's memory", "ok")
    assert found["NCCL"] == ("2.28.9, sum of 4 GPUs", "32 MB in 0.2 ms, 240 GB/s", "ok")


def test_gpus_that_do_not_are_too():
    failed = SumOverProcesses("nccl", 4, 32_000_000, "failed", "unhandled system error")
    found = rows(unreadable=("0-1", "2-3"), nccl=failed)
    assert found["P2P"] == ("4 of 6 pairs of GPUs", "read each other's memory", "-")
    assert found["NCCL"] == ("2.28.9, sum of 4 GPUs", "unhandled system error", "NO")
    (finding,) = checks_system.sums(chain(sums=(failed,)))
    assert finding.fix == "NCCL_DEBUG=WARN mlcli env-check"


def test_one_gpu_has_no_pair():
    assert {"P2P", "NCCL"}.isdisjoint(row.link for row in torch_rows(chain(device_count=1)))
