"""What a command does not need is not imported, for nobody to wait: told by sys.modules in a process of its own."""

import os
import subprocess
import sys

import pytest

BEFORE_FIRST_STEP = (
    "sklearn",
    "scipy",
    "matplotlib",
    "torchvision",
    "pandas",
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "sympy",
)
"""Each costs a tenth of a second to two seconds. torch itself, numpy, Pillow and TensorBoard's writer are needed."""
HEAVY = ("torch", "numpy", "torchvision", "sklearn", "tensorboard", "matplotlib", "PIL", "tqdm", "psutil", "rich")

REPORT = "print('loaded', *sorted(set(sys.modules) & set(asked)), flush=True)"
RUN = """
import sys
asked = {asked!r}
sys.argv = ["mlcli", *{arguments!r}]
from mlcli.cli import main
try: main()
except SystemExit: pass
{report}
"""
UNTIL_FIRST_STEP = """
import os, sys
asked = {asked!r}
from mlcli.engine.stop import StopRequest
calls = []
def second_time(self):
    calls.append(True)  # before each step
    if len(calls) == 2:
        {report}
        os._exit(0)
    return False
StopRequest.__call__ = second_time
sys.argv = ["mlcli", "train", {config!r}, "optimizer.name={optimizer}", "optimizer.lr=0.01"]
from mlcli.cli import main
main()
"""


def loaded(program: str, folder) -> list[str]:
    """Which of the modules asked after a program had loaded."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder)
    lines = [line for line in done.stdout.splitlines() if line.startswith("loaded")]
    assert len(lines) == 1, done.stdout + done.stderr
    return lines[0].split()[1:]


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["--help"], (*HEAVY, "pydantic", "yaml", "mlcli.experiment")),
        (["train", "broken.yaml"], HEAVY),
        (["train", "broken.yaml", "optimizer.lr=fast"], HEAVY),
        (["init", "digits"], HEAVY),
    ],
    ids=["help", "config error", "override error", "init"],
)
def test_commands_that_compute_nothing_import_nothing_heavy(arguments, asked, tmp_path):
    (tmp_path / "broken.yaml").write_text("task: classification\nmodle: {name: mlp}\n")
    assert loaded(RUN.format(asked=asked, arguments=arguments, report=REPORT), tmp_path) == []


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_first_step_waits_for_nothing_it_does_not_need(optimizer, tmp_path):
    config = tmp_path / "x.yaml"
    config.write_text("task: classification\ndata: {name: digits}\nmodel: {name: mlp}\n")
    asked = ("torch", *BEFORE_FIRST_STEP)
    program = UNTIL_FIRST_STEP.format(asked=asked, report=REPORT, config=str(config), optimizer=optimizer)
    assert loaded(program, tmp_path) == ["torch"]


@pytest.mark.parametrize(
    ("asked", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
    ids=["nothing", "spins", "policy"],
)
def test_openmp_is_told_before_torch_is_loaded(tmp_path, asked, spins):
    """It looks at its variables once; a user's own stay."""
    program = """
import os, sys
class First:
    def find_spec(self, name, *_):
        if name == "torch":
            print("loaded", os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, First())
sys.argv = ["mlcli", "train", "x.yaml"]
from mlcli.cli import main
main()
"""
    (tmp_path / "x.yaml").write_text("task: classification\ndata: {name: digits}\nmodel: {name: mlp}\n")
    clean = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path,
                          env={**clean, **asked})  # fmt: skip
    assert done.stdout == f"loaded {spins}\n", done.stderr
