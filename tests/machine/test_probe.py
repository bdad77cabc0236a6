"""Facts gathered from trees of files, and from PyTorchs that are missing, broken, deadly or asleep."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from mlcli.errors import ExitCode
from mlcli.machine.bench.disk import mount_of
from mlcli.machine.env import probe_system
from mlcli.machine.env.facts import BusDevice
from mlcli.machine.env.probe import PROBE, ask_all, probe_machine, probe_torch


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


class Mount(NamedTuple):
    """What psutil.disk_partitions says of one mount."""

    device: str
    mountpoint: str
    fstype: str


def card(root: Path, address: str, vendor: str, device: str, kind: str = "0x030000", driver: str = "") -> None:
    folder = f"sys/bus/pci/devices/{address}"
    write(root, {f"{folder}/vendor": f"{vendor}\n", f"{folder}/device": f"{device}\n", f"{folder}/class": f"{kind}\n"})
    if driver:
        held_by = root / "sys/bus/pci/drivers" / driver
        held_by.mkdir(parents=True, exist_ok=True)
        (root / folder / "driver").symlink_to(held_by)


def test_cards_on_the_bus(tmp_path):
    card(tmp_path, "0000:01:00.0", "0x10de", "0x1b06", driver="nouveau")
    card(tmp_path, "0000:01:00.1", "0x10de", "0x10ef", kind="0x040300")  # its sound
    card(tmp_path, "0000:02:00.0", "0x1002", "0x744c", kind="0x030200")
    card(tmp_path, "0000:03:00.0", "0x1af4", "0x1050")
    names = "# comment\n1002  AMD\n\t1b06  wrong\n10de  NVIDIA Corporation\n\t1b06  GP102 [GeForce GTX 1080 Ti]\n"
    write(tmp_path, {"usr/share/misc/pci.ids": names})
    assert probe_system.bus_devices(tmp_path) == (
        BusDevice("0000:01:00.0", "nvidia", "GP102 [GeForce GTX 1080 Ti]", "nouveau"),
        BusDevice("0000:02:00.0", "amd"),
    )


def test_driver_files(tmp_path):
    version = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22)\n"
        "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2)\n"
    )
    modules = "nvidia_uvm 2158592 0 - Live 0x0\nnvidia 14381056 44 nvidia_uvm, Live 0x0\nnouveaux 1 0 - Live 0x0\n"
    files = {"proc/driver/nvidia/version": version, "proc/modules": modules, "dev/nvidia0": "", "dev/nvme0": ""}
    write(tmp_path, files)
    assert probe_system.kernel_driver(tmp_path) == "580.95.05"
    assert probe_system.loaded_modules(tmp_path) == ("nvidia", "nvidia_uvm")
    assert probe_system.device_files(tmp_path) == ("nvidia0",)


def test_an_empty_machine_has_no_gpu(tmp_path):
    assert probe_system.bus_devices(tmp_path) == ()
    assert probe_system.kernel_driver(tmp_path) == ""
    assert probe_system.device_files(tmp_path) == ()


@pytest.mark.parametrize(
    ("files", "container", "wsl"),
    [
        ({"proc/self/cgroup": "0::/user.slice\n", "proc/version": "Linux version 6.8 (gcc)"}, False, False),
        ({".dockerenv": ""}, True, False),
        ({"run/.containerenv": ""}, True, False),
        ({"proc/self/cgroup": "4:memory:/kubepods/burstable/pod1\n"}, True, False),
        ({"proc/version": "Linux version 6.6.87.2-microsoft-standard-WSL2"}, False, True),
    ],
    ids=["bare", "docker", "podman", "kubernetes", "WSL2"],
)
def test_container_and_wsl(tmp_path, files, container, wsl):
    write(tmp_path, files)
    assert (probe_system.in_container(tmp_path), probe_system.in_wsl(tmp_path)) == (container, wsl)


def test_a_driver_inside_wsl(tmp_path):
    write(tmp_path, {"proc/version": "microsoft-standard-WSL2", "usr/lib/wsl/lib/libcuda.so.1": ""})
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    (libraries / "libcuda.so").symlink_to(tmp_path / "usr/lib/wsl/lib/libcuda.so.1")
    assert probe_system.foreign_libcuda(tmp_path) == ""
    (libraries / "libcuda.so.1").write_text("")
    assert probe_system.foreign_libcuda(tmp_path) == str(libraries / "libcuda.so.1")


def test_a_limited_container(tmp_path):
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cpu.max": "100000 100000",
        "sys/fs/cgroup/memory.max": f"{300 << 20}",
        "sys/fs/cgroup/memory.current": f"{100 << 20}",
        "sys/fs/cgroup/memory.stat": "inactive_file 0\n",
        "etc/os-release": 'NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n',
        "dev/shm/x": "",
    }
    facts = probe_machine(write(tmp_path, files), tmp_path).host
    assert facts.cpus_usable == 1
    assert facts.shm_bytes
    assert facts.memory_available_bytes == 200 << 20
    assert facts.distribution == "ubuntu"


@pytest.mark.parametrize(
    ("folder", "kind", "device"),
    [
        ("/home/ada", "ext4", "/dev/nvme0n1p2"),
        ("/data/images", "nfs4", "server:/export"),
        ("/database", "ext4", "/dev/nvme0n1p2"),
        ("/mnt/my disk/a", "9p", "C:"),
        ("/over", "tmpfs", "tmpfs"),
    ],
)
def test_filesystem_of_a_folder(folder, kind, device):
    mounts = [
        Mount("/dev/nvme0n1p2", "/", "ext4"),
        Mount("server:/export", "/data", "nfs4"),
        Mount("C:", "/mnt/my disk", "9p"),
        Mount("/dev/sda1", "/over", "xfs"),
        Mount("tmpfs", "/over", "tmpfs"),
    ]
    assert mount_of(Path(folder), mounts) == (kind, device)


def test_filesystem_of_no_folder():
    assert mount_of(Path("/home"), []) == ("", "")


def test_turning_disks(tmp_path):
    write(tmp_path, {"sys/block/sda/queue/rotational": "1\n", "sys/block/nvme0n1/queue/rotational": "0\n"})
    assert probe_system.rotational("/dev/sda1", tmp_path) is True
    assert probe_system.rotational("/dev/nvme0n1p2", tmp_path) is False
    assert probe_system.rotational("server:/export", tmp_path) is None


def test_reading_speed_needs_a_large_file(tmp_path):
    assert probe_system.cold_read_mb_s(tmp_path) is None


def test_second_cudnn(tmp_path):
    write(tmp_path, {"cuda/libcudnn.so.9": "", "other/libcublas.so": ""})
    assert probe_system.cudnn_on_path(f"{tmp_path}/cuda::{tmp_path}/other") == (f"{tmp_path}/cuda/libcudnn.so.9",)


@pytest.mark.parametrize(
    ("name", "text", "build", "cuda"),
    [
        ("torch", "__version__ = '2.15.0+cu132'\ncuda: Optional[str] = '13.2'\n", "2.15.0+cu132", "13.2"),
        ("torch", "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n", "2.13.0+cpu", ""),
        ("torch", "__version__ = '2.5.1'\ncuda = '12.4'\nhip = None\n", "2.5.1", "12.4"),
        ("torchvision", "__version__ = '0.28.0+cu130'\n", "0.28.0+cu130", "13.0"),
        ("torchvision", "__version__ = '0.28.0+cpu'\n", "0.28.0+cpu", ""),
        ("torchvision", "__version__ = '0.20.1'\n", "0.20.1", None),
    ],
)
def test_flavour_by_files(tmp_path, name, text, build, cuda):
    write(tmp_path, {f"{name}/version.py": text})
    assert probe_system.flavour(name, tmp_path) == (build, cuda)


def test_environments(tmp_path):
    assert probe_system.environment(tmp_path, tmp_path) == "system"
    assert probe_system.environment(tmp_path / "venv", tmp_path) == "venv"
    write(tmp_path, {"conda-meta/pytorch-2.5.1-py3.12_0.json": "{}", "conda-meta/history": ""})
    assert probe_system.environment(tmp_path, tmp_path) == "conda"
    assert probe_system.conda_packages(tmp_path) == ("pytorch-2.5.1-py3.12_0",)


def test_one_failure_and_one_hang_stop_nothing():
    forever = threading.Event()
    answers, unknown = ask_all({"a": lambda: 1, "b": lambda: 1 / 0, "c": forever.wait, "d": lambda: 4}, within_s=0.2)
    forever.set()
    assert answers == {"a": 1, "d": 4}
    assert unknown == ("b: ZeroDivisionError: division by zero", "c: no answer within 0.2 s")


def test_this_machine_is_known():
    facts = probe_machine()
    assert facts.unknown == ()
    assert facts.python.executable == sys.executable
    assert any(package.name == "torch" and package.location for package in facts.python.packages)
    assert facts.host.cpus_usable
    assert facts.torch is None


def torch_of(folder: Path, text: str, vision: str = "", timeout_s: float = 60.0):
    """What is found out about a package named torch that consists of this text."""
    write(folder, {"torch/__init__.py": text, "torchvision/__init__.py": vision})
    return probe_torch(timeout_s, {**os.environ, "PYTHONPATH": str(folder)})


def test_torch_missing(tmp_path):
    found = torch_of(tmp_path, "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    assert (found.state, found.error) == ("missing", "ModuleNotFoundError: No module named 'torch'")


def test_torch_that_does_not_import(tmp_path):
    found = torch_of(tmp_path, "raise ImportError('libcudart.so.13: cannot open shared object file')")
    assert (found.state, found.error) == (
        "import failed",
        "ImportError: libcudart.so.13: cannot open shared object file",
    )


def test_torch_that_dies(tmp_path):
    found = torch_of(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert (found.state, found.stage, found.error) == ("crashed", "import torch", "SIGSEGV")


@pytest.mark.parametrize("ends", ["os._exit(0)", "sys.exit(0)"])
def test_a_torch_that_ends_the_process_as_if_all_were_well(tmp_path, ends):
    found = torch_of(tmp_path, f"import os, sys\n{ends}")
    assert found.state in ("crashed", "import failed")
    assert found.stage == "import torch"


def test_a_probe_that_told_nothing_has_failed(tmp_path):
    write(tmp_path, {"sitecustomize.py": "import os\nos._exit(0)"})
    found = torch_of(tmp_path, "")
    assert (found.state, found.stage, found.error) == ("crashed", "start Python", "exit code 0")


def test_torch_that_hangs(tmp_path):
    found = torch_of(tmp_path, "import threading\nthreading.Event().wait()", timeout_s=1.5)
    assert (found.state, found.stage, found.error) == ("timed out", "import torch", "no end after 1.5 s")


HANGS = "threading.Event().wait()"
HANGS_WITH_THE_LOCK = "ctypes.PyDLL(None).pause()"  # no other thread of Python runs meanwhile


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    "hang",
    [
        HANGS,
        pytest.param(HANGS_WITH_THE_LOCK, marks=pytest.mark.skipif(sys.platform != "linux", reason="prctl of Linux")),
    ],
    ids=["waiting", "holding Python's lock"],
)
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_hanging_torch_dies_with_who_asked(tmp_path, hang, sent):
    """The package opens a named pipe and hangs: its bytes say that it runs, the end of the pipe that it died."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    tell = f"os.write(os.open({str(pipe)!r}, os.O_WRONLY), b'%d' % os.getpid())"
    write(tmp_path, {"torch/__init__.py": f"import ctypes, os, threading\n{tell}\n{hang}"})
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    asking = subprocess.Popen(
        [sys.executable, "-m", "mlcli", "env-check", "--json"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.DEVNULL,
    )
    try:
        assert select.select([end], [], [], 60)[0], "it never imported torch"
        child = int(os.read(end, 20))
        asking.send_signal(sent)
        assert asking.wait(20) == (ExitCode.TERMINATED if sent == signal.SIGTERM else -sent)
        ended = bool(select.select([end], [], [], 20)[0])
        if not ended:
            os.kill(child, signal.SIGKILL)
        assert ended, "it lives on"
    finally:
        asking.kill()
        asking.wait()
        os.close(end)


def test_a_torch_whose_asker_died_before_is_not_waited_for(tmp_path):
    write(tmp_path, {"torch/__init__.py": f"import threading\n{HANGS}"})
    done = subprocess.run(
        [sys.executable, "-P", str(PROBE)],
        input=b"",
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        timeout=60,
    )
    assert done.returncode == 1


HALF_A_TORCH = """
import os, signal, types
print("libraries print as they please")
__version__ = "2.14.0+cu126"
version = types.SimpleNamespace(cuda="12.6", hip=None)
_C = types.SimpleNamespace(_cuda_getArchFlags=lambda: "sm_50 sm_60")
def set_num_threads(count): pass
class cuda:
    @staticmethod
    def is_available():
        os.kill(os.getpid(), signal.SIGABRT)
"""


def test_what_was_told_before_a_crash_is_kept(tmp_path):
    found = torch_of(tmp_path, HALF_A_TORCH)
    assert (found.state, found.stage, found.error) == (
        "crashed",
        "start CUDA",
        "SIGABRT: libraries print as they please",
    )
    assert (found.version, found.cuda, found.codes) == ("2.14.0+cu126", "12.6", ("sm_50", "sm_60"))


def test_a_torch_py_in_the_working_directory_is_not_pytorch(tmp_path, monkeypatch):
    write(
        tmp_path,
        {"torch.py": "raise ImportError('mine')", "broken/torchvision/__init__.py": "raise RuntimeError('no nms')"},
    )
    monkeypatch.chdir(tmp_path)
    found = probe_torch(environment={**os.environ, "PYTHONPATH": str(tmp_path / "broken")})
    assert found.state == "ok"
    assert found.vision_error == "RuntimeError: no nms"
    assert [kernel.outcome for kernel in found.kernels if kernel.name == "NMS"] == ["skipped"]
    assert {kernel.outcome for kernel in found.kernels if kernel.name != "NMS"} == {"ok"}
    assert json.dumps(found.kernels[0].name)
