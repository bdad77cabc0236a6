"""A full disk or an output that cannot be written: exit 6, one message, and all that was saved before stays good."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlcli.engine.run import RunFolder, list_runs
from mlcli.errors import ExitCode, OutputError
from mlcli.files import Journal
from tests.reliability.runs import DIGITS, finished, leftovers, type_train, verified_steps
from tests.reliability.trials import Ended, in_child


def with_files_up_to(size_bytes: int, folder: Path) -> int:
    """Type the training where no file may grow beyond a size: its write fails with EFBIG, in the middle of it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))
    return type_train(folder)


@pytest.fixture
def digits(arena) -> Path:
    (arena / "digits.yaml").write_text(DIGITS)
    return arena


def assert_one_message(ended: Ended, path: Path | str) -> None:
    assert ended.code == ExitCode.OUTPUT, ended
    lines = ended.result.splitlines()
    assert len(lines) <= 5, ended
    assert lines[0].startswith("error: cannot write: "), ended
    assert str(path) in lines[1], ended
    assert lines[2].startswith("fix: "), ended
    assert "Traceback" not in ended.out, ended


def test_a_file_that_may_not_grow_ends_the_run_and_earlier_checkpoints_are_good(digits):
    """From less than one checkpoint to more than all the training writes; the limit is met by files of each kind."""
    codes = []
    for size_bytes in (1, 300, 1200, 7000, 8000, 11_300, 12_000, 10**7):
        shutil.rmtree(digits / "runs", ignore_errors=True)
        ended = in_child(with_files_up_to, size_bytes, digits)
        codes.append(ended.code)
        if ended.code:
            assert_one_message(ended, "runs")
        runs = list_runs(digits / "runs")
        assert [run.path for run in runs] == list((digits / "runs").glob("*/*")), size_bytes  # nothing half made
        for run in runs:
            verified_steps(run.checkpoints)
            assert not leftovers(run.path), size_bytes
    assert codes[0] == ExitCode.OUTPUT
    assert codes[-1] == ExitCode.OK


def test_a_run_that_met_a_full_disk_goes_on_once_there_is_room(digits):
    assert in_child(type_train, digits).code == 0
    (whole,) = list_runs(digits / "runs")
    expected = finished(whole)
    largest = max(path.stat().st_size for path in (*whole.checkpoints.iterdir(), *whole.path.glob("splits.*")))
    shutil.rmtree(digits / "runs")
    assert in_child(with_files_up_to, largest, digits).code == ExitCode.OUTPUT  # evaluations take more
    (run,) = list_runs(digits / "runs")
    assert verified_steps(run.checkpoints)
    ended = in_child(type_train, digits)
    assert ended.code == 0, ended
    assert finished(run) == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_on_a_full_disk_is_one_message(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    os.dup2(os.open("/dev/full", os.O_WRONLY), journal._descriptor)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        journal.write("x")
    assert caught.value.where == str(journal.path)
    assert "free some space" in caught.value.fix


def in_namespace(folder: Path, options: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command where `folder` is a file system of its own."""
    script = f"mount -t tmpfs -o {options} none {folder} && {command}"
    return subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=120)


def namespaces_are_refused(tmp_path_factory) -> str:
    if not shutil.which("unshare"):
        return "this system has no unshare"
    tried = in_namespace(tmp_path_factory.mktemp("mount"), "size=1m", "true")
    return tried.stderr.strip() if tried.returncode else ""


@pytest.fixture(scope="module")
def namespaces(tmp_path_factory) -> None:
    """Whether this user may mount; containers mostly forbid it."""
    if reason := namespaces_are_refused(tmp_path_factory):
        pytest.skip(f"file systems of one's own are not allowed here: {reason}")


def type_train_in(mounted: Path, options: str) -> subprocess.CompletedProcess[str]:
    config = mounted.with_suffix(".yaml")
    config.write_text(DIGITS)
    typed = f"{sys.executable} -m mlcli train {config} --out {mounted}/runs"
    listed = f"find {mounted} -name '*.tmp'; cp -r {mounted}/runs {mounted}.copy 2>/dev/null"
    return in_namespace(mounted, options, f"{{ {typed}; code=$?; {listed}; exit $code; }}")


@pytest.mark.usefixtures("namespaces")
def test_a_disk_that_fills_up_during_training(tmp_path):
    mounted = tmp_path / "small"
    mounted.mkdir()
    ended = type_train_in(mounted, "size=160k")
    assert ended.returncode == ExitCode.OUTPUT, ended
    assert ended.stderr.startswith("error: cannot write: No space left on device"), ended
    assert len(ended.stderr.splitlines()) <= 5, ended
    assert str(mounted) in ended.stderr
    assert ".tmp" not in ended.stdout
    runs = list_runs(tmp_path / "small.copy")
    assert runs
    assert all(verified_steps(run.checkpoints) for run in runs)


@pytest.mark.usefixtures("namespaces")
def test_an_output_that_can_only_be_read_is_noticed_before_the_model_is_built(tmp_path):
    mounted = tmp_path / "fixed"
    mounted.mkdir()
    ended = type_train_in(mounted, "ro")
    assert ended.returncode == ExitCode.OUTPUT, ended
    assert ended.stderr.startswith("error: cannot write: Read-only file system"), ended
    assert ended.stdout == ""  # the model's line would stand there


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_noticed(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="Permission denied"):
        RunFolder(tmp_path).lock()


@pytest.mark.parametrize("obstacle", ["a file", "a file above"])
def test_an_output_through_a_file_is_noticed_before_the_model_is_built(digits, obstacle):
    (digits / "runs").write_text("") if obstacle == "a file" else (digits / "runs").symlink_to(digits / "digits.yaml")
    ended = in_child(type_train, digits)
    assert ended.code == ExitCode.OUTPUT
    assert ended.result.startswith("error: the output path goes through a file")
    assert ended.out == ""
