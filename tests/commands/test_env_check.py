"""`mlcli env-check` on the machine at hand."""

import io
import json
import os
import subprocess
import sys
import threading

import pytest

from mlcli.commands.env_check import waiting_for_torch


def test_it_ends_in_a_verdict_and_a_command(mlcli):
    typed = mlcli("env-check")
    assert typed.code in (0, 1), typed.out
    lines = typed.out.splitlines()
    assert lines[0] == "GPU -> driver -> CUDA -> PyTorch"
    links = [line.split()[0] for line in lines[1 : lines.index("")] if line[2] != " "]
    assert list(dict.fromkeys(links)) == [
        "GPU",
        "driver",
        "Python",
        "CUDA",
        "PyTorch",
        "vision",
        "kernels",
        "gloo",
    ]
    machine = lines[lines.index("machine") + 1 : lines.index("installed") - 1]
    assert [line.split()[0] for line in machine] == ["CPUs", "memory", "disk"]
    assert "torch " in typed.out[typed.out.index("installed") : typed.out.index("findings")]
    assert lines[-1].startswith("(driver facts: ")
    assert lines[-1].endswith(f"exit {typed.code}")
    assert lines[-3].startswith("  ")


def test_json_says_the_same_and_torch_stays_out_of_this_process(tmp_path):
    program = (
        "import sys, mlcli.cli\n"
        "code = 0\n"
        "try: mlcli.cli.main()\n"
        "except SystemExit as stopped: code = stopped.code or 0\n"
        "loaded = {'torch', 'torchvision', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else code)"
    )
    arguments = [sys.executable, "-c", program, "env-check", "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    report = json.loads(done.stdout)
    assert done.returncode == report["exit_code"], done.stderr
    assert report["exit_code"] in (0, 1)
    assert report["facts"]["torch"]["state"] == "ok"
    assert {kernel["outcome"] for kernel in report["facts"]["torch"]["kernels"]} <= {"ok", "skipped"}
    assert {one["outcome"] for one in report["facts"]["torch"]["sums"]} <= {"ok", "skipped"}
    assert report["facts"]["python"]["prefix"] == sys.prefix
    assert report["verdict"]
    assert report["command"]


def test_help_names_an_example(mlcli):
    assert "Example: mlcli env-check" in mlcli("env-check", "--help").out
    assert "mlcli env-check" in mlcli().out


def run_without_torch(folder, stderr) -> str:
    """What env-check --json prints on stdout with a PyTorch that fails at once."""
    (folder / "torch").mkdir()
    (folder / "torch/__init__.py").write_text("raise ImportError('broken')")
    arguments = [sys.executable, "-m", "mlcli", "env-check", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(arguments, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment).stdout


def test_a_terminal_shows_what_is_waited_for_and_then_no_more(tmp_path):
    pty = pytest.importorskip("pty", reason="needs a Unix terminal")
    ours, terminal = pty.openpty()
    report = json.loads(run_without_torch(tmp_path, terminal))
    shown = os.read(ours, 1000).decode()
    os.close(terminal)
    os.close(ours)
    assert report["facts"]["torch"]["state"] == "import failed"
    line = "  asking PyTorch (up to 120 s) ..."
    assert shown == f"{line}\r{' ' * len(line)}\r"


def test_off_a_terminal_nothing_is_shown_soon(tmp_path):
    with (tmp_path / "errors").open("w") as errors:
        json.loads(run_without_torch(tmp_path, errors))
    assert (tmp_path / "errors").read_text() == ""


class Written(io.StringIO):
    """Text that says when its first line is there."""

    def __init__(self) -> None:
        super().__init__()
        self.line = threading.Event()

    def flush(self) -> None:
        if "\n" in self.getvalue():
            self.line.set()


def test_a_long_wait_is_explained(monkeypatch, capsys):
    errors = Written()
    monkeypatch.setattr(sys, "stderr", errors)
    with waiting_for_torch(patience_s=0):
        assert errors.line.wait(20)
    assert errors.getvalue() == "still waiting for PyTorch (up to 120 s)\n"
    assert capsys.readouterr().out == ""
