"""A verified checkpoint exists at every instant: every call on the files of a training fails, falls short, or kills.

A red trial prints the command that does it alone.
"""

import os
from pathlib import Path

import pytest

from mlcli.engine.run import list_runs
from mlcli.errors import ExitCode
from tests.reliability.faults import Action, Call, calls_in
from tests.reliability.runs import Whole, leftovers, toy_resume, toy_run, verified_steps
from tests.reliability.soak import LONG
from tests.reliability.trials import in_child

ONLY = os.environ.get("MLCLI_CALL")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Whole, list[Call]]:
    folder = tmp_path_factory.mktemp("whole")
    ended = in_child(toy_run, folder, folder.with_suffix(".calls"))
    assert ended.code == 0, ended.result
    return ended.result, calls_in(folder.with_suffix(".calls"))


def chosen(calls: list[Call], action: Action) -> list[Call]:
    if action in ("torn", "short"):
        calls = [call for call in calls if call.operation == "write"]
    if not LONG and ONLY is None:  # each call is one at which the training is killed, or the disk is full
        calls = {"kill": calls[::2], "ENOSPC": calls[1::2], "EIO": calls[::6]}.get(action, calls)
    return [call for call in calls if ONLY in (None, str(call))]


def test_the_training_has_all_kinds_of_calls(undisturbed):
    _, calls = undisturbed
    kinds = {call.operation for call in calls}
    assert kinds >= {"open", "write", "fsync", "replace", "unlink", "mkdir"}
    assert len(calls) > 50


@pytest.mark.parametrize("action", ["kill", "torn"])
def test_after_a_kill_at_any_call_the_run_goes_on_as_if_nothing_had_been(undisturbed, arena, action):
    expected, calls = undisturbed
    for number, call in enumerate(chosen(calls, action)):
        root = new_folder(arena, number)
        trial = replay(call, action)
        assert in_child(toy_run, root, root.with_suffix(".calls"), action, call).code == -9, trial
        if first_save_is_done(root):
            assert_it_goes_on(root, expected, trial)


@pytest.mark.parametrize("action", ["ENOSPC", "EIO"])
def test_after_a_failure_of_any_call_there_is_one_message_and_the_run_goes_on(undisturbed, arena, action):
    expected, calls = undisturbed
    for number, call in enumerate(chosen(calls, action)):
        root = new_folder(arena, number)
        trial = replay(call, action)
        ended = in_child(toy_run, root, root.with_suffix(".calls"), action, call)
        assert ended.code == ExitCode.OUTPUT, f"{trial}: {ended}"
        assert ended.result.startswith("error: cannot "), f"{trial}: {ended}"
        assert str(root) in ended.result, f"{trial}: {ended}"
        assert not leftovers(root), trial
        if first_save_is_done(root):
            assert all(verified_steps(run.checkpoints) for run in list_runs(root)), trial
            if action == "ENOSPC":  # EIO leaves the same files
                assert_it_goes_on(root, expected, trial)


def test_a_short_write_that_takes_only_half_is_taken_up(undisturbed, arena):
    expected, calls = undisturbed
    for number, call in enumerate(chosen(calls, "short")):
        root = new_folder(arena, number)
        ended = in_child(toy_run, root, root.with_suffix(".calls"), "short", call)
        assert (ended.code, ended.result) == (0, expected), f"{replay(call, 'short')}: {ended}"


def test_bytes_reach_the_disk_before_their_name_does(undisturbed):
    """kill -9 cannot show that (the system keeps what was written); without it, a loss of power could."""
    _, calls = undisturbed
    order = [(call.operation, call.path) for call in calls]
    renamed = [place for place, (operation, _) in enumerate(order) if operation == "replace"]
    assert len(renamed) > 8
    for place in renamed:
        path = order[place][1]
        own = [operation for operation, where in order[:place] if where == path]
        assert own[-2:] == ["write", "fsync"], path
        assert ("fsync", str(Path(path).parent)) in order[place:], path


def replay(call: Call, action: Action) -> str:
    return f"MLCLI_CALL='{call}' python -m pytest {__file__} -k '{action}'"


def new_folder(arena: Path, number: int) -> Path:
    folder = arena / str(number)
    folder.mkdir()
    return folder


def first_save_is_done(root: Path) -> bool:
    calls = calls_in(root.with_suffix(".calls"))
    return any(call.operation == "replace" and "step-" in call.path for call in calls)


def assert_it_goes_on(root: Path, expected: Whole, trial: str) -> None:
    (run,) = list_runs(root)
    assert verified_steps(run.checkpoints), trial
    ended = in_child(toy_resume, root, root.with_suffix(".calls"))
    assert (ended.code, ended.result) == (0, expected), f"{trial}: {ended}"
    assert not leftovers(root), trial
