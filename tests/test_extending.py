"""docs/extending.md is true: its changes apply to the package as it is, and each of its YAML files trains."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
CHANGES = re.findall("```diff\n(.*?)```", PAGE, re.DOTALL)
YAMLS = re.findall("```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """A copy of the package with all changes of the page."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "mlcli", folder / "mlcli", ignore=shutil.ignore_patterns("__pycache__"))
    for change in CHANGES:
        subprocess.run(["git", "apply", "-"], input=change, text=True, cwd=folder, check=True)
    images = np.random.default_rng(0).integers(0, 256, (120, 8, 8), dtype=np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(120) % 3)
    return folder


def test_there_are_examples():
    assert len(CHANGES) == len(YAMLS) == 3


def test_each_example_trains(extended):
    files = [f"{number}.yaml" for number in range(len(YAMLS))]
    for name, yaml in zip(files, YAMLS, strict=True):
        (extended / name).write_text(yaml)
    type_all = (
        "import sys; from mlcli import cli\n"
        "for name in sys.argv[1:]:\n"
        "    sys.argv = ['mlcli', 'train', name, 'train.baselines=false', 'train.device=cpu']\n"
        "    try: cli.main()\n"
        "    except SystemExit as stopped: print(name, 'ends with', stopped.code or 0)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(extended), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", type_all, *files]
    done = subprocess.run(command, cwd=extended, env=environment, capture_output=True, text=True)
    assert done.stdout.count("done in") == len(YAMLS), done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if " ends with " in line] == [f"{n} ends with 0" for n in files]
