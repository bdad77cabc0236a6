"""What the environment says about the processes of a training."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mlcli.engine import launcher, limits
from mlcli.engine.launcher import number_of_processes
from mlcli.engine.processes import SINGLE, Place, place, rendezvous_of_slurm
from mlcli.errors import ConfigError, ExitCode

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
SRUN = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "7", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
        "SLURM_STEP_TASKS_PER_NODE": "4,3", "SLURM_JOB_ID": "1234", "SLURM_STEP_ID": "2"}  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, SINGLE),
        (TORCHRUN, Place(5, 8, 1, 4)),
        (SRUN, Place(5, 7, 1, 3)),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3(x2),1"}, Place(5, 7, 1, 3)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, SINGLE),  # a batch script, outside of srun
        ({"WORLD_SIZE": "8"}, SINGLE),
        (SRUN | TORCHRUN, Place(5, 8, 1, 4)),  # torchrun started by srun
    ],
    ids=["nothing", "torchrun", "srun", "srun, nodes alike", "sbatch", "half", "both"],
)
def test_place(variables, expected):
    assert place(variables) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": "8"}, "rank 8 of 8"),
        ({"LOCAL_RANK": "4"}, "4 of 4 on this machine"),
        ({"RANK": "one"}, "RANK is 'one', which is no number"),
        ({"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE is ''"),
        ({"RANK": "٣"}, "no number"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_numbers_that_cannot_be(change, message):
    with pytest.raises(ConfigError, match=message):
        place(TORCHRUN | change)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[03-05,9]", "gpu03"),
        ("a-b[7,9],c", "a-b7"),
        ("", "localhost"),
    ],
)
def test_srun_meets_at_the_first_node(nodes, host):
    assert rendezvous_of_slurm(SRUN | {"SLURM_STEP_NODELIST": nodes})[0] == host


def test_two_steps_of_a_job_meet_at_two_ports():
    ports = {rendezvous_of_slurm(SRUN | {"SLURM_STEP_ID": str(step)})[1] for step in range(5)}
    assert len(ports) == 5
    assert all(1024 < port < 32768 for port in ports)  # below those that systems hand out


def test_number_of_processes():
    assert number_of_processes("3", SINGLE) == 3
    assert number_of_processes("auto", Place(1, 2, 1, 2)) == 1
    assert number_of_processes("2", Place(1, 2, 1, 2)) == 1  # this is one of them
    for wrong in ("0", "-1", "2.0", "two", "", "99999"):
        with pytest.raises(ConfigError, match="no number of processes"):
            number_of_processes(wrong, SINGLE)
    with pytest.raises(ConfigError, match="asks for 4 processes, but this is one of 2"):
        number_of_processes("4", Place(0, 2, 0, 2))


def test_more_processes_than_fit_into_memory_are_not_started(monkeypatch):
    monkeypatch.setattr(launcher, "available_memory_bytes", lambda: 2_000_000_000)
    with pytest.raises(
        ConfigError, match="900 processes take 225 GB of memory and more, and 2 GB are available"
    ) as told:
        launcher.launch_here(900)
    assert told.value.fix == "--devices 4 or fewer, or auto: one for each GPU"


def test_modules_in_the_working_directory_are_imported_only_where_the_command_did_so(monkeypatch, tmp_path):
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("logging.disable", lambda: None)
    monkeypatch.setattr(
        "torch.distributed.launcher.api.elastic_launch", lambda *_: lambda *typed: started.append(typed)
    )
    for name in ("OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    launcher.launch_here(1)
    monkeypatch.syspath_prepend(tmp_path)
    launcher.launch_here(1)
    assert [typed[: typed.index("mlcli")] for typed in started] == [("-P", "-m"), ("-m",)]


def test_cpus_are_shared_by_the_processes_of_a_machine(monkeypatch):
    alone = limits.usable_cpus()
    for name, value in (TORCHRUN | {"LOCAL_WORLD_SIZE": "4"}).items():
        monkeypatch.setenv(name, value)
    assert limits.usable_cpus() == max(1, alone // 4)


def test_the_one_thread_that_torchrun_sets_is_not_taken_for_the_users(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert limits.usable_threads(usable=4, cpus=4) == (1, "OMP_NUM_THREADS is 1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert limits.usable_threads(usable=4, cpus=4) == (4, "")


QUIET = """
import os, sys
from pathlib import Path
from mlcli.engine.processes import Place, hushed, write_into
with hushed(Place({rank}, 2, {local_rank}, 2)):
    print("before"); print("wrong", file=sys.stderr); os.write(1, b"native\\n")
    write_into(Path("ranks/1.log"))
    print("after")
"""


@pytest.mark.parametrize(("rank", "local_rank"), [(0, 0), (1, 1), (1, 0)])
def test_all_but_the_first_rank_print_into_a_file(tmp_path, rank, local_rank):
    code = QUIET.format(rank=rank, local_rank=local_rank)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if rank == 0:
        assert sorted(done.stdout.split()) == ["after", "before", "native"]
        assert not (tmp_path / "ranks").exists()
        return
    assert done.stdout == ""
    assert done.stderr == ("wrong\n" if local_rank == 0 else "")  # of each machine's first, what goes wrong so early
    words = (tmp_path / "ranks" / "1.log").read_text().split()
    assert {"before", "native", "after"} <= set(words)
    assert ("wrong" in words) == (local_rank == 1)


@pytest.mark.parametrize("command", ["evaluate", "predict", "lr-find"])
def test_what_runs_in_one_process_is_refused_in_several(mlcli, monkeypatch, command):
    for name, value in {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    typed = mlcli(command, "latest")
    assert typed.code == 2
    assert f"'{command}' runs in one process, but this is one of 4 that were started together" in typed.err


@pytest.mark.parametrize(
    ("codes", "expected", "told"),
    [
        ({0: 143, 1: -9}, ExitCode.RANK, "rank 1 was ended by SIGKILL"),  # the first was quick to stop
        ({0: 4, 1: 143}, 4, ""),
        ({0: 9, 1: -9}, ExitCode.RANK, ""),  # and has said so
        ({0: 143, 1: 143}, ExitCode.TERMINATED, ""),
        ({0: 143, 1: 1}, ExitCode.RANK, "a rank failed"),
        ({1: -9}, ExitCode.RANK, "rank 1 was ended by SIGKILL"),
    ],
)
def test_the_exit_code_is_of_the_rank_that_ended_the_training(codes, expected, told, monkeypatch, capsys):
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    failures = {rank: SimpleNamespace(exitcode=code) for rank, code in codes.items()}

    def fail(*_):
        error = ChildFailedError.__new__(ChildFailedError)
        error.failures = failures
        raise error

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *_: fail)
    for name in ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(launcher.logging, "disable", lambda: None)
    assert launcher.launch_here(2) == expected
    shown = capsys.readouterr().err
    assert told in shown if told else not shown
