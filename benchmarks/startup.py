"""How long until something happens: help, a config error, and the first training step beside a bare `import torch`.

Each is a process of its own, timed by the clock and in CPU time (user and system), which others on the machine disturb
less. The first training step is that of the MLP on digits with all defaults (checks before training, the run folder,
TensorBoard opened, its graph and first picture drawn); the process ends as soon as it is done.

    python benchmarks/startup.py [--rounds 5]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from machine_line import machine_line
from rounds import alternate, spread, table

CONFIG = Path(__file__).parents[1] / "configs/classification/mlp-digits.yaml"
COMMAND = "from mlcli.cli import main; main()"
UNTIL_FIRST_STEP = f"""
import os
from mlcli.engine.stop import StopRequest
asked = []
def second_time(self):
    asked.append(True)  # before each step
    if len(asked) == 2:
        os._exit(0)
    return False
StopRequest.__call__ = second_time
{COMMAND}
"""
GOALS = {
    "mlcli --help": "0.35 s by the clock",
    "mlcli train, a config error": "0.5 s by the clock",
    "mlcli train, first step": "1.3x `import torch`",
}


class Spent(NamedTuple):
    """Seconds of one process: by the clock, and of CPU time."""

    wall_s: float
    cpu_s: float


def spent(program: str, *arguments: str, expected: int = 0) -> Spent:
    """Run a program to its end; it must end with the code expected."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", program, *arguments]
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != expected:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{errors}")
    return Spent(wall_s, usage.ru_utime + usage.ru_stime)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--warm-ups", type=int, default=1, help="unmeasured: files come into the page cache")
    chosen = arguments.parse_args()
    train = ["train", str(CONFIG), "--out", "runs"]
    measures = {
        "python": partial(spent, "pass"),
        "import torch": partial(spent, "import torch"),
        "mlcli --help": partial(spent, COMMAND, "--help"),
        "mlcli train, a config error": partial(spent, COMMAND, *train, "modle.name=mlp", expected=2),
        "mlcli train, first step": partial(spent, UNTIL_FIRST_STEP, *train),
    }
    alternate(measures, chosen.warm_ups)
    found = alternate(measures, chosen.rounds)
    print(f"{machine_line()}; {chosen.rounds} rounds\n")
    print(table(("until", "s by the clock", "s of CPU time", "goal"), (
        (f"`{name}`" if name in ("python", "import torch") else name, spread([one.wall_s for one in values], ".2f"),
         spread([one.cpu_s for one in values], ".2f"), GOALS.get(name, ""))
        for name, values in found.items()
    )))  # fmt: skip
    for field, what in (("wall_s", "by the clock"), ("cpu_s", "in CPU time")):
        torch_s, step_s = (
            [getattr(one, field) for one in found[name]] for name in ("import torch", "mlcli train, first step")
        )
        ratio = statistics.median(ours / bare for ours, bare in zip(step_s, torch_s, strict=True))
        print(f"\nFirst training step: {ratio:.2f}x `import torch` {what}, median of the rounds.")


if __name__ == "__main__":
    main()
