"""Device and precision are decided with reasons; limits are read from control groups; seeds are keyed by step."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mlcli.engine import runtime as module
from mlcli.engine.contract import Batch
from mlcli.engine.rehearsal import step_flops
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.settings import Train, TrainerSettings
from mlcli.engine.stop import StopRequest
from mlcli.errors import ConfigError, ExitCode
from mlcli.experiment import Experiment
from mlcli.models.resnet import ResNet
from mlcli.tasks.classification.config import Classification


class Convolving(TrainerSettings):
    """Of a task most of whose work are convolutions."""

    @property
    def convolves(self) -> bool:
        return True


def settings_of(kind: type[TrainerSettings] = TrainerSettings, **train: Any) -> TrainerSettings:
    return kind(train=Train(**train))


def test_auto_says_what_it_chose_and_why():
    runtime = decide_runtime(TrainerSettings())
    assert {choice.what for choice in runtime.choices} >= {"device", "precision"}
    assert all(choice.why for choice in runtime.choices)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("wish", [{"device": "cuda"}, {"precision": "tf32", "device": "cpu"}], ids=str)
def test_what_is_absent_is_refused(wish):
    with pytest.raises(ConfigError) as caught:
        decide_runtime(settings_of(**wish))
    assert "auto" in caught.value.fix


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("bf16", True)])
def test_fp32_is_no_tf32_in_convolutions_either(precision, tf32):
    decide_runtime(settings_of(device="cpu", precision=precision))
    assert torch.backends.cudnn.allow_tf32 is tf32
    assert (torch.get_float32_matmul_precision() != "highest") is tf32


def test_random_numbers_are_a_function_of_seed_and_step():
    runtime = decide_runtime(settings_of(device="cpu"))
    runtime.seed_step(5)
    first = torch.rand(3)
    runtime.seed_step(6)
    assert not torch.equal(first, torch.rand(3))
    torch.rand(100)
    runtime.seed_step(5)
    assert torch.equal(first, torch.rand(3))
    other = decide_runtime(settings_of(device="cpu", seed=1))
    other.seed_step(5)
    assert not torch.equal(first, torch.rand(3))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
def test_a_signal_asks_to_stop_and_handlers_are_put_back(number, code):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert stop.exit_code == ExitCode(code)
    assert signal.getsignal(number) is before


def test_a_second_signal_stops_at_once():
    child = os.fork()
    if child == 0:
        with StopRequest():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143


@pytest.mark.parametrize(
    ("units", "kind", "precision", "layout"),
    [
        (True, Convolving, "bf16", "channels_last"),
        (False, Convolving, "fp32", "channels_last"),
        (True, TrainerSettings, "fp32", "channels_first"),
        (False, TrainerSettings, "fp32", "channels_first"),
    ],
)
def test_what_is_fast_on_a_cpu_depends_on_its_units_and_on_the_model(monkeypatch, units, kind, precision, layout):
    monkeypatch.setattr(module, "has_bf16_units", lambda: units)
    decided = decide_runtime(settings_of(kind, device="cpu"))
    assert (decided.precision, decided.channels_last) == (precision, layout == "channels_last")
    assert {what: value for what, value, _ in decided.choices}.items() >= {("precision", precision), ("layout", layout)}
    asked = decide_runtime(settings_of(kind, device="cpu", precision="fp32", channels_last=False))
    assert (asked.precision, asked.channels_last) == ("fp32", False)


@pytest.mark.parametrize(("name", "convolves"), [("mlp", False), ("perceptron", False), ("vgg", True), ("cnn", True)])
def test_which_models_convolve(name, convolves):
    blocks = {"blocks": [{"name": "conv", "channels": 4}]} if name == "cnn" else {}
    hidden = {"hidden": [4]} if name == "mlp" else {}
    config = {"task": "classification", "data": {"name": "digits"}, "model": {"name": name, **blocks, **hidden}}
    assert Classification.model_validate(config).convolves == convolves


def layout(runtime: module.Runtime) -> module.Choice:
    (choice,) = [choice for choice in runtime.choices if choice.what == "layout"]
    return choice


@pytest.mark.parametrize("asked", ["auto", True], ids=str)
def test_a_model_that_torch_crashes_on_stays_in_channels_first(asked):
    runtime = decide_runtime(settings_of(Convolving, device="cpu", channels_last=asked))
    narrow = ResNet(depth=18, width=0.125, channels=3, outputs=10)
    safe = runtime.for_model(narrow)
    assert (layout(runtime).value, layout(safe).value, safe.channels_last) == ("channels_last", "channels_first", False)
    assert "strided 1x1 convolutions of under 16 channels" in layout(safe).why
    runtime.place(narrow)  # without for_model as well
    assert all(weight.is_contiguous() for weight in narrow.parameters())


@pytest.mark.parametrize(
    "model",
    [
        ResNet(depth=18, channels=3, outputs=10),
        nn.Conv2d(8, 16, 1),
        nn.Conv2d(16, 16, 1, stride=2),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
    ],
    ids=["wide", "stride 1", "16 channels", "3x3"],
)
def test_other_models_keep_channels_last(model):
    runtime = decide_runtime(settings_of(Convolving, device="cpu"))
    assert runtime.for_model(model) is runtime
    kernels = [weight for weight in runtime.place(model).parameters() if weight.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)


NARROW_STEPS = """
import torch
from mlcli.engine.runtime import decide_runtime
from mlcli.models.resnet import ResNet
from tests.engine.test_runtime import Convolving, settings_of

runtime = decide_runtime(settings_of(Convolving, device="cpu", threads=2, precision="fp32"))
model = runtime.place(ResNet(depth=18, width=0.125, channels=3, outputs=10))
for _ in range(8):
    model(torch.randn(9, 3, 64, 64)).sum().backward()
"""


def test_a_narrow_resnet_is_trained_by_two_threads():
    done = subprocess.run([sys.executable, "-c", NARROW_STEPS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- whether a GPU is worth having -----------------------------------------------------------------------------------


def step_of(model: dict[str, Any], batch_size: int) -> tuple[float, int]:
    """Floating-point operations of a training step on digits, and parameters."""
    config = Classification.model_validate({"task": "classification", "data": {"name": "digits"}, "model": model})
    task = Experiment(config, "").build()
    images = Batch(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1), torch.zeros(1))
    return step_flops(task, images, batch_size), sum(one.numel() for one in task.model.parameters())


def test_operations_of_a_step_are_counted():
    flops, parameters = step_of({"name": "mlp", "hidden": [128]}, 64)
    assert flops == 64 * 3 * 2 * (64 * 128 + 128 * 10)
    assert parameters == 64 * 128 + 128 + 128 * 10 + 10


@pytest.mark.parametrize(
    ("model", "batch_size", "advised"),
    [
        ({"name": "mlp", "hidden": [128]}, 64, True),
        ({"name": "mlp", "hidden": [4096, 4096]}, 64, False),
        ({"name": "resnet", "depth": 18}, 64, False),
    ],
    ids=["mlp", "large mlp", "resnet"],
)
def test_a_cpu_is_advised_where_a_gpu_only_launches_kernels(model, batch_size, advised):
    gpu = replace(decide_runtime(settings_of(threads=2)), device=torch.device("cuda"))
    flops, parameters = step_of(model, batch_size)
    lines = module.advise_device(gpu, flops, parameters)
    assert bool(lines) == advised
    assert all("train.device=cpu" in text for _, text in lines)
    assert module.advise_device(replace(gpu, device=torch.device("cpu")), flops, parameters) == []


def test_operations_of_a_model_that_cannot_be_called_on_a_cpu_are_not_known():
    class Elsewhere(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("Expected all tensors to be on the same device")

    task = SimpleNamespace(model=Elsewhere())
    flops = step_flops(task, Batch(torch.zeros(1, 2), torch.zeros(1), torch.zeros(1)), 8)
    gpu = replace(decide_runtime(settings_of()), device=torch.device("cuda"))
    assert module.advise_device(gpu, flops, 10) == []
