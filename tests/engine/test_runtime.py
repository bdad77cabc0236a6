"""Device and precision are decided with reasons; limits are read from control groups; seeds are keyed by step."""

import os
import signal
from typing import Any

import pytest
import torch

from mlcli.engine import runtime as module
from mlcli.engine.runtime import decide_runtime
from mlcli.engine.settings import Train, TrainerSettings
from mlcli.engine.stop import StopRequest
from mlcli.errors import ConfigError, ExitCode
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
