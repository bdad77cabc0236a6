"""The rows of the chain for machines written by hand."""

from mlcli.machine.env.chain import Chain, ChainRow, machine_rows, torch_rows
from mlcli.machine.env.facts import TorchFacts
from tests.machine import machines as m
from tests.machine.machines import TABLE, WITH_H200, WITHOUT_GPU, nvidia, on


def test_a_pascal_card_with_a_build_that_left_it_out():
    facts = on(
        WITH_H200,
        gpu=nvidia("550.144.03", (12, 4), m.GTX_1080_TI),
        torch=m.torch(device="cpu", vision_version="0.29.2+cu132"),
    )
    assert [*machine_rows(Chain(facts, TABLE)), *torch_rows(Chain(facts, TABLE))] == [
        ChainRow("GPU", "NVIDIA GeForce GTX 1080 Ti   11 GB", "compute capability 6.1 (Pascal)", "ok"),
        ChainRow("driver", "550.144.03", "runs CUDA up to 12.4", "ok"),
        ChainRow("Python", "3.12.4", "venv /home/ada/venv", "ok"),
        ChainRow("CUDA", "torch is built for 13.2", "needs driver 580 or newer", "TOO NEW"),
        ChainRow("PyTorch", "2.15.0+cu132", "has no kernels for 6.1 (has 7.5 … 12.0)", "NO"),
        ChainRow("vision", "0.29.2+cu132", "loads with torch", "ok"),
        ChainRow("kernels", "on cpu", "6 of 6 computations agree with float64", "ok"),
    ]


def test_without_a_gpu_nothing_is_amiss():
    states = [row.state for row in [*machine_rows(Chain(WITHOUT_GPU, TABLE)), *torch_rows(Chain(WITHOUT_GPU, TABLE))]]
    assert states == ["-", "-", "ok", "-", "ok", "ok", "ok"]


def test_a_hidden_and_a_visible_gpu():
    facts = on(
        WITH_H200,
        gpu=nvidia("580.95.05", (13, 0), m.H200, m.RTX_5090),
        host={"environment": {"CUDA_VISIBLE_DEVICES": "1"}},
    )
    assert [(row.link, row.state) for row in machine_rows(Chain(facts, TABLE))[:2]] == [
        ("GPU 0", "HIDDEN"),
        ("GPU 1", "ok"),
    ]


def test_a_torch_that_crashes_and_one_that_computes_wrongly():
    crashed = on(WITH_H200, torch=TorchFacts("crashed", "import torch", "SIGSEGV"))
    assert [row.state for row in torch_rows(Chain(crashed, TABLE))] == ["NO", "-"]
    wrong = on(WITH_H200, torch={"kernels": m.kernels("cuda:0", NMS="wrong", matmul_bf16="skipped")})
    assert torch_rows(Chain(wrong, TABLE))[-1] == ChainRow(
        "kernels", "on cuda:0", "4 of 5 computations agree with float64", "NO"
    )
