"""One run and its ONNX file, for all tests that need no other."""

from pathlib import Path

import pytest

from mlcli.commands import export, train

YAML = """
task: classification
data: {name: digits}
model: {name: mlp, hidden: [8]}
train: {epochs: 1, device: cpu, threads: 1, baselines: false}
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A working folder with the run d of d.yaml, and d.onnx."""
    path = tmp_path_factory.mktemp("d")
    (path / "d.yaml").write_text(YAML)
    train.run(path / "d.yaml", [], name=None, resume=None, root=path / "runs")
    export.run("d", "onnx", output=path / "d.onnx", root=path / "runs")
    return path
