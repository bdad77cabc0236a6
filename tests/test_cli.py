"""What a command ends with when nobody takes its output: the disk is full, or the reader has left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
COMMANDS = [["schema", "--markdown"], ["schema"], ["--help"], [], ["env-check", "--help"]]


@pytest.fixture(params=["", "1"], ids=["buffered", "unbuffered"])
def environment(request) -> dict[str, str]:
    """Buffered, a short output fails only at the last flush; unbuffered, at the first print."""
    return {**os.environ, "PYTHONUNBUFFERED": request.param}


def run(arguments: list[str], environment: dict[str, str], stdout: int) -> tuple[int, str]:
    """Exit code and standard error."""
    command = [sys.executable, "-m", "mlcli", *arguments]
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)
    return done.returncode, done.stderr


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_full_disk_is_said_in_a_line(arguments, environment):
    with FULL.open("w") as full:
        code, errors = run(arguments, environment, full.fileno())
    assert (code, errors) == (6, "error: standard output cannot be written: [Errno 28] No space left on device\n")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["env-check"], ["env-check", "--json"]], ids=" ".join)
def test_env_check_on_a_full_disk_does_not_pass_for_warnings(arguments, environment, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('broken')")
    with FULL.open("w") as full:
        code, errors = run(arguments, {**environment, "PYTHONPATH": str(tmp_path)}, full.fileno())
    assert code == 6
    assert errors.count("\n") == 1


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_reader_that_left_is_no_error(arguments, environment):
    reader, writer = os.pipe()
    os.close(reader)
    code, errors = run(arguments, environment, writer)
    os.close(writer)
    assert (code, errors) == (0, "")


def test_the_message_of_a_user_error_stays(environment):
    code, errors = run(["train", "none.yaml", "other.yaml"], environment, subprocess.DEVNULL)
    assert code == 2
    assert errors.startswith("error: one YAML at a time")


def test_a_usage_error_keeps_its_code(environment):
    code, errors = run(["no-such-command"], environment, subprocess.DEVNULL)
    assert code == 2
    assert "no-such-command" in errors


def test_a_shell_completes_the_names_of_commands(environment):
    program = "import sys; sys.argv = ['mlcli']; from mlcli.cli import main; main()"
    typed = {"_MLCLI_COMPLETE": "complete_bash", "COMP_WORDS": "mlcli tr", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**environment, **typed})
    assert done.stdout == "train\n"
