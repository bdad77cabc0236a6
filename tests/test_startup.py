"""What a command does not need is not imported, for nobody to wait: told by sys.modules in a process of its own."""

import subprocess
import sys

import pytest

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
    ],
    ids=["help", "config error", "override error"],
)
def test_commands_that_compute_nothing_import_nothing_heavy(arguments, asked, tmp_path):
    (tmp_path / "broken.yaml").write_text("task: classification\nmodle: {name: mlp}\n")
    assert loaded(RUN.format(asked=asked, arguments=arguments, report=REPORT), tmp_path) == []
