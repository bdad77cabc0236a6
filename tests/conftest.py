"""What several rooms' tests need: a way to type a command, and one thread so that bits are repeatable."""

import gc
import os
import socket
import sys
import urllib.request
from collections.abc import Callable
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["COLUMNS"] = "120"  # the width of the screens that texts are compared with
os.environ["NO_COLOR"] = "1"

import pytest
import torch
from PIL import Image

from mlcli import cli
from mlcli.engine.limits import usable_cpus
from mlcli.show import figure

# The first backward pass of a process decides whether autograd has threads, which do not outlive a fork: on a CPU it
# has none, but after something was compiled or exported it would. Many tests fork.
torch.ones(1, requires_grad=True).sum().backward()

drawn = figure.image_of


def undrawn(chart) -> Image.Image:
    """Empty paper of a chart's shape, and small: to draw it, and to pack it into a PNG file, takes longer than most
    trainings of these tests, and few look at the picture."""
    return Image.new("RGB", tuple(round(10 * inches) for inches in chart.get_size_inches()), "white")


figure.image_of = undrawn


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are CPUs: a fifth of the tests' time is spent waiting, for processes and for disks."""
    return usable_cpus() + 1


def pytest_collection_finish() -> None:
    """Modules and tests stay until the end: looking through them for garbage takes a twentieth of the tests' time, and
    looking for new garbage as often as Python does another one."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or Triton complains of what is never freed


def pytest_collection_modifyitems(items) -> None:
    """`make test` looks for measurements in tests/machine alone: reading all of the tests takes half a minute."""
    elsewhere = [item.nodeid for item in items if item.get_closest_marker("alone") and "machine" not in item.path.parts]
    assert not elsewhere, elsewhere


@pytest.fixture(autouse=True, scope="module")
def draws(request):
    """Have charts drawn for the tests of a module that says `DRAWS = True`."""
    figure.image_of = drawn if getattr(request.module, "DRAWS", False) else undrawn
    yield
    figure.image_of = undrawn


@pytest.fixture
def no_network(monkeypatch) -> None:
    """Lead every download to a proxy at which nobody listens, so that this holds where there is a network too."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    for name in ("https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    # urllib keeps the opener that it first makes, with the proxies of that moment
    monkeypatch.setattr(urllib.request, "_opener", None)


class Typed(NamedTuple):
    """What came of a typed command."""

    code: int
    out: str
    err: str


@pytest.fixture
def mlcli(monkeypatch, capsys, tmp_path) -> Callable[..., Typed]:
    """Type an mlcli command in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def type_command(*arguments: object) -> Typed:
        monkeypatch.setattr(sys, "argv", ["mlcli", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return Typed(code, *capsys.readouterr())

    return type_command
