"""kill -9 at random instants from the start of `mlcli train` to its end: no run is lost, nothing comes out different.

A run is killed, gone on with, killed again ... until it gets through; then it must equal the one left alone. A red
trial prints the command that does it again.
"""

import os
import random
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from mlcli.engine.checkpoint import by_age
from mlcli.engine.run import RunFolder, list_runs
from tests.reliability.runs import DIGITS, Finished, finished, leftovers, type_train, verified_steps
from tests.reliability.soak import soaked
from tests.reliability.trials import Trial, in_child

KILLS_EACH = 25
SEEDS = os.environ.get("MLCLI_SEEDS", " ".join(map(str, range(soaked(100, 2) // KILLS_EACH)))).split()
"""A seed stands for 25 kills."""


class Alone(NamedTuple):
    outcome: Finished
    duration_s: float


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Alone:
    """The training that nobody disturbs."""
    for _ in range(2):  # the first of a server is slower
        folder = tmp_path_factory.mktemp("alone")
        (folder / "digits.yaml").write_text(DIGITS)
        began = time.monotonic()
        ended = in_child(type_train, folder)
        duration_s = time.monotonic() - began
        assert ended.code == 0, ended
        outcome = finished(list_runs(folder / "runs")[-1])
    return Alone(outcome, duration_s)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_survives_kills_at_random_instants(alone, arena, seed):
    dice, kills, number = random.Random(seed), 0, 0
    again = f"MLCLI_SEEDS={seed} python -m pytest {__file__}"
    while kills < KILLS_EACH:
        folder, number = arena / str(number), number + 1
        folder.mkdir()
        (folder / "digits.yaml").write_text(DIGITS)
        kills += kills_until_finished(folder, alone.duration_s, dice, again)
        (run,) = finished_runs(folder)
        assert finished(run) == alone.outcome, again


def kills_until_finished(folder: Path, duration_s: float, dice: random.Random, again: str) -> int:
    kills, newest = 0, 0
    while True:
        patience = 1.1**kills  # on a machine that has become busier no trial might get as far as a save
        ended = Trial(type_train, folder).kill_after(dice.uniform(0, duration_s * patience))
        if ended.code == 0:
            (run,) = finished_runs(folder)
            assert not leftovers(run.path), again
            return kills
        assert ended.code == -9, f"{again}: {ended}"
        kills += 1
        for run in begun(folder):
            steps = verified_steps(run.checkpoints)
            assert steps[0] >= newest, again
            newest = steps[0]
            assert not run.is_held(), again
        if finished_runs(folder):  # killed while it wrote its report, or on its way out
            return kills


def begun(folder: Path) -> list[RunFolder]:
    """The run that has checkpoints; those killed before their first save hold nothing that could be lost."""
    return [run for run in list_runs(folder / "runs") if by_age(run.checkpoints)]


def finished_runs(folder: Path) -> list[RunFolder]:
    return [run for run in begun(folder) if run.status()["state"] == "finished"]
