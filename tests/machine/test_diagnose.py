"""The diagnosis of machines written by hand: the verdict, the command and the exit code, word for word."""

import json
from dataclasses import asdict, replace

import pytest

from mlcli.machine.env import checks_chain, checks_system
from mlcli.machine.env.chain import Chain
from mlcli.machine.env.diagnose import CHECKS, diagnose
from mlcli.machine.env.facts import BusDevice, Facts, Folder, GpuFacts, Package, SumOverProcesses, TorchFacts
from tests.machine import machines as m
from tests.machine.machines import TABLE, WITH_H200, WITHOUT_GPU, nvidia, on

SCENES = {
    "H200 with driver 580": WITH_H200,
    "GTX 1080 Ti with driver 550": on(
        WITH_H200,
        gpu=nvidia("550.144.03", (12, 4), m.GTX_1080_TI),
        torch=m.torch(device="cpu", cuda_available=False, cuda_error="RuntimeError: driver too old"),
    ),
    "GTX 1080 Ti with driver 580": on(WITH_H200, gpu=nvidia("580.95.05", (13, 0), m.GTX_1080_TI)),
    "GTX 1080 Ti with its own build": on(
        WITH_H200,
        gpu=nvidia("550.144.03", (12, 4), m.GTX_1080_TI),
        python=m.python("2.14.0+cu126", "0.29.2+cu126"),
        torch=m.torch("2.14.0+cu126", m.CU126),
    ),
    "RTX 5090 with driver 570": on(
        WITH_H200,
        gpu=nvidia("570.124.06", (12, 8), m.RTX_5090),
        torch=m.torch(device="cpu", cuda_available=False),
    ),
    "H200 with driver 550": on(
        WITH_H200,
        gpu=nvidia("550.144.03", (12, 4), m.H200),
        torch=m.torch(device="cpu", cuda_available=False),
    ),
    "H200 with driver 470": on(
        WITH_H200,
        gpu=nvidia("470.256.02", (11, 4), m.H200),
        torch=m.torch(device="cpu", cuda_available=False),
    ),
    "K80": on(WITH_H200, gpu=nvidia("470.256.02", (11, 4), m.K80), torch=m.torch(device="cpu", cuda_available=False)),
    "CPU-only wheel": on(
        WITH_H200, python=m.python("2.15.0+cpu", "0.29.2+cpu"), torch=m.torch("2.15.0+cpu", device="cpu")
    ),
    "CPU-only wheel on Windows": on(
        WITH_H200,
        host={"system": "Windows", "machine": "AMD64"},
        python=m.python("2.15.0+cpu", "0.29.2+cpu"),
        torch=m.torch("2.15.0+cpu", device="cpu"),
    ),
    "flavours differ": on(
        WITHOUT_GPU,
        python=m.python("2.13.0+cpu", "0.28.0+cu130", requires={"torchvision": ("torch (==2.13.0)",)}),
        torch=m.torch(
            "2.13.0+cpu",
            device="cpu",
            vision_version="",
            vision_error="RuntimeError: operator torchvision::nms does not exist",
            vision_library_error="OSError: libc10_cuda.so: cannot open shared object file",
        ),
    ),
    "flavours differ on a GPU": on(WITH_H200, python=m.python("2.15.0+cu132", "0.29.2+cpu")),
    "NVML mismatch": on(
        WITH_H200,
        gpu=GpuFacts(
            (BusDevice("0000:01:00.0", "nvidia", "", "nvidia"),),
            ("nvidia0", "nvidiactl"),
            ("nvidia", "nvidia_uvm"),
            "570.124.06",
            nvml_code=18,
            nvml_error="Driver/library version mismatch",
        ),
        torch=m.torch(device="cpu", cuda_available=False),
    ),
    "nouveau": on(
        WITHOUT_GPU,
        gpu=GpuFacts(
            (BusDevice("0000:01:00.0", "nvidia", "GP102 [GeForce GTX 1080 Ti]", "nouveau"),),
            modules=("nouveau",),
            nvml_code=12,
        ),
    ),
    "no GPU": WITHOUT_GPU,
    "hidden": on(
        WITH_H200,
        host={"environment": {"CUDA_VISIBLE_DEVICES": ""}},
        torch=m.torch(device="cpu", cuda_available=False),
    ),
    "small container": on(WITHOUT_GPU, host={"container": True, "cpus": 64, "cpus_usable": 2, "shm_bytes": 64 << 20}),
    "container without its GPU": on(
        WITHOUT_GPU, host={"container": True}, gpu=GpuFacts(kernel_driver="580.95.05", nvml_code=12)
    ),
    "WSL2": on(WITH_H200, host={"wsl": True, "wsl_libcuda": True}, gpu={"bus": (), "device_files": ("dxg",)}),
    "WSL2 with a Linux driver": on(
        WITH_H200,
        host={"wsl": True, "wsl_libcuda": True, "foreign_libcuda": "/usr/lib/x86_64-linux-gnu/libcuda.so.1"},
    ),
    "conda and pip": on(
        WITH_H200,
        python={
            "environment": "conda",
            "conda_packages": ("pytorch-2.5.1-py3.12_cuda12.4_0", "pytorch-cuda-12.4-0", "torchvision-0.20.1-py312"),
        },
    ),
    "old tensorboard": on(
        WITHOUT_GPU,
        python=m.python(
            "2.15.0+cu132", "0.29.2+cu132", Package("tensorboard", "2.20.0"), Package("setuptools", "84.2.1")
        ),
    ),
    "Apple silicon": Facts(
        m.host(system="Darwin", machine="arm64", distribution="", shm_bytes=None),
        GpuFacts(nvml_code=12),
        m.python("2.15.0", "0.29.2"),
        m.torch("2.15.0", device="mps", mps_available=True),
    ),
    "torch missing": on(WITH_H200, python=m.python("", ""), torch=TorchFacts("missing", "import torch", "gone")),
}

WHEELS = "https://download.pytorch.org/whl"
REINSTALL = "pip install --force-reinstall"
DIAGNOSES = {
    "H200 with driver 580": (0, "nothing to do", "The GPU can be used: NVIDIA H200."),
    "GTX 1080 Ti with driver 550": (
        2,
        f'{REINSTALL} "torch==2.14.*" torchvision --index-url {WHEELS}/cu126',
        "The GPU cannot be used: this PyTorch is built for CUDA 13.2, driver 550.144.03 runs CUDA up to 12.4, and no "
        "driver update helps, because CUDA 13 no longer supports Pascal. The last build for this GPU is "
        "PyTorch 2.14 for CUDA 12.6.",
    ),
    "GTX 1080 Ti with driver 580": (
        2,
        f'{REINSTALL} "torch==2.14.*" torchvision --index-url {WHEELS}/cu126',
        "The GPU cannot be used: this PyTorch has no kernels for compute capability 6.1 (Pascal), for which it takes "
        "CUDA 8.0 to 12; it has 7.5 … 12.0. The last build for this GPU is PyTorch 2.14 for CUDA 12.6 (keep "
        "driver R580, the last for Pascal).",
    ),
    "GTX 1080 Ti with its own build": (0, "nothing to do", "The GPU can be used: NVIDIA GeForce GTX 1080 Ti."),
    "RTX 5090 with driver 570": (
        2,
        f'{REINSTALL} "torch==2.11.*" torchvision --index-url {WHEELS}/cu128',
        "The GPU cannot be used: this PyTorch is built for CUDA 13.2 and needs driver 580 or newer, but 570.124.06 "
        "runs CUDA up to 12.8. Update the driver, or take PyTorch 2.11 for CUDA 12.8.",
    ),
    "H200 with driver 550": (
        2,
        f'{REINSTALL} "torch==2.14.*" torchvision --index-url {WHEELS}/cu126',
        "The GPU cannot be used: this PyTorch is built for CUDA 13.2 and needs driver 580 or newer, but 550.144.03 "
        "runs CUDA up to 12.4. Update the driver, or take PyTorch 2.14 for CUDA 12.6.",
    ),
    "H200 with driver 470": (
        2,
        "sudo ubuntu-drivers install",
        "The GPU cannot be used: this PyTorch is built for CUDA 13.2 and needs driver 580 or newer, but 470.256.02 "
        "runs CUDA up to 11.4; every PyTorch that mlcli runs with needs driver 525 or newer; install 580.",
    ),
    "K80": (
        2,
        f"{REINSTALL} torch torchvision --index-url {WHEELS}/cpu",
        "The GPU cannot be used: this PyTorch is built for CUDA 13.2, driver 470.256.02 runs CUDA up to 11.4, and no "
        "driver update helps, because CUDA 13 no longer supports Kepler. No PyTorch that mlcli runs with "
        "(2.11 or newer) has kernels for 3.7 (Kepler), so train on the CPU.",
    ),
    "CPU-only wheel": (
        2,
        f"{REINSTALL} torch torchvision",
        "The GPU cannot be used: this PyTorch (2.15.0+cpu) is a CPU build.",
    ),
    "CPU-only wheel on Windows": (
        2,
        f"{REINSTALL} torch torchvision --index-url {WHEELS}/cu132",
        "The GPU cannot be used: this PyTorch (2.15.0+cpu) is a CPU build, as pip installs by itself on Windows.",
    ),
    "flavours differ": (
        2,
        f"{REINSTALL} torch torchvision --index-url {WHEELS}/cpu",
        "PyTorch cannot be used: torchvision is built for CUDA 13.0, torch for the CPU (OSError: libc10_cuda.so: "
        "cannot open shared object file).",
    ),
    "flavours differ on a GPU": (
        2,
        f"{REINSTALL} torch torchvision",
        "The GPU cannot be used: torchvision is built for the CPU, torch for CUDA 13.2.",
    ),
    "NVML mismatch": (
        2,
        "sudo reboot",
        "The GPU cannot be used: the driver was updated while it was loaded (the loaded module is 570.124.06): library "
        "and kernel module no longer match, so reboot.",
    ),
    "nouveau": (
        2,
        "sudo ubuntu-drivers install",
        "The GPU cannot be used: GP102 [GeForce GTX 1080 Ti] is on the PCI bus, but the nouveau driver holds it, which "
        "cannot compute; install NVIDIA's and reboot.",
    ),
    "no GPU": (0, "nothing to do", "PyTorch works; without a GPU, training runs on the CPU."),
    "hidden": (2, "unset CUDA_VISIBLE_DEVICES", 'The GPU cannot be used: CUDA_VISIBLE_DEVICES="" hides the GPU.'),
    "small container": (
        1,
        "docker run --shm-size=1g ...",
        "PyTorch works; without a GPU, training runs on the CPU. But /dev/shm is 64 MB, large batches of 2 workers "
        "take 300 MB.",
    ),
    "container without its GPU": (
        2,
        "docker run --gpus all ...",
        "The GPU cannot be used: the host has an NVIDIA driver (580.95.05), but this container was started without its "
        "GPUs.",
    ),
    "WSL2": (0, "nothing to do", "The GPU can be used: NVIDIA H200."),
    "WSL2 with a Linux driver": (
        1,
        "sudo apt remove --purge '^libnvidia-compute-.*' '^nvidia-.*'",
        "The GPU can be used: NVIDIA H200. But a Linux driver in WSL (/usr/lib/x86_64-linux-gnu/libcuda.so.1) hides "
        "the one that Windows provides.",
    ),
    "conda and pip": (
        1,
        f"conda remove --force pytorch pytorch-cuda torchvision && {REINSTALL} torch torchvision",
        "The GPU can be used: NVIDIA H200. But conda installed pytorch-2.5.1-py3.12_cuda12.4_0, pytorch-cuda-12.4-0, "
        "torchvision-0.20.1-py312 and pip installed torch 2.15.0, torchvision 0.29.2 into one environment.",
    ),
    "old tensorboard": (
        1,
        'pip install --upgrade "tensorboard>=2.21"',
        "PyTorch works; without a GPU, training runs on the CPU. But tensorboard 2.20.0 does not start with setuptools "
        "84.2.1 (pkg_resources is gone).",
    ),
    "Apple silicon": (0, "nothing to do", "Apple's GPU can be used (MPS)."),
    "torch missing": (2, "pip install torch torchvision", "The GPU cannot be used: PyTorch is not installed."),
}


@pytest.mark.parametrize("scene", SCENES)
def test_verdict_command_and_exit_code(scene):
    diagnosis = diagnose(Chain(SCENES[scene], TABLE))
    assert (diagnosis.exit_code, diagnosis.command, diagnosis.verdict) == DIAGNOSES[scene]


@pytest.mark.parametrize("scene", SCENES)
def test_the_printed_command_heals(scene):
    """What an install command would put in place is diagnosed as able to use the GPU, wherever it names a build."""
    facts = SCENES[scene]
    before = diagnose(Chain(facts, TABLE))
    wheel = before.command.rpartition("/")[2]
    if not before.command.startswith(REINSTALL) or not wheel.startswith("cu"):
        return
    release = "2.11.0" if "2.11" in before.command else "2.14.0" if "2.14" in before.command else "2.15.0"
    build = next(b for b in TABLE.builds["x86_64"] if b.tag == wheel and release.startswith(f"2.{b.release[1]}."))
    healed = on(
        facts,
        python=m.python(f"{release}+{wheel}", f"0.29.2+{wheel}", requires={}),
        torch=m.torch(f"{release}+{wheel}", build.codes),
    )
    assert diagnose(Chain(healed, TABLE)).exit_code == 0


def fires(check, facts, severity, *words):
    (finding,) = check(Chain(facts, TABLE))
    assert finding.severity == severity
    assert all(word in f"{finding.text} | {finding.fix}" for word in words), finding


HOT = replace(m.H200, slowed_by=("heat",), temperature_c=91)
FULL = replace(m.H200, used_bytes=120 << 30, processes=2)
SPLIT = replace(m.H200, mig=True)
EXCLUSIVE = replace(m.H200, compute_mode="exclusive", processes=1)
PROHIBITED = replace(m.H200, compute_mode="prohibited")
CUDNN_12, CUDNN_13 = Package("nvidia-cudnn-cu12", "9.10.2.21"), Package("nvidia-cudnn-cu13", "9.26.0.51")
TWO = nvidia("580.95.05", (13, 0), m.H200, m.H200)


def h200(gpu):
    return on(WITH_H200, gpu=nvidia("580.95.05", (13, 0), gpu))


FIRING = {
    "1 no driver": (
        checks_chain.presence,
        on(WITHOUT_GPU, gpu=GpuFacts((BusDevice("0000:01:00.0", "nvidia"),))),
        ("error", "NVIDIA card 0000:01:00.0 is on the PCI bus, but no NVIDIA driver is loaded"),
    ),
    "1 nouveau": (checks_chain.presence, SCENES["nouveau"], ("error", "nouveau", "ubuntu-drivers")),
    "1 lent": (
        checks_chain.presence,
        on(WITHOUT_GPU, gpu=GpuFacts((BusDevice("0000:01:00.0", "nvidia", "", "vfio-pci"),))),
        ("info", "virtual machine"),
    ),
    "1 one card lost": (
        checks_chain.presence,
        on(WITH_H200, gpu={"bus": (BusDevice("a", "nvidia"), BusDevice("b", "nvidia"))}),
        ("warning", "2 NVIDIA cards are on the PCI bus, the driver reaches 1"),
    ),
    "1 fallen off the bus": (
        checks_chain.presence,
        on(WITHOUT_GPU, gpu=GpuFacts(kernel_driver="580.95.05", nvml_code=15, nvml_error="GPU is lost")),
        ("error", "GPU is lost", "reboot"),
    ),
    "2": (checks_chain.nvml_mismatch, SCENES["NVML mismatch"], ("error", "570.124.06", "reboot")),
    "3": (
        checks_chain.driver_too_old,
        SCENES["RTX 5090 with driver 570"],
        ("error", "12.8", "13.2", "Update the driver, or"),
    ),
    "4": (checks_chain.older_minor, WITH_H200, ("info", "13.0", "13.2", "222")),
    "5": (
        checks_chain.no_kernels,
        SCENES["GTX 1080 Ti with driver 580"],
        ("error", "6.1 (Pascal)", "7.5 … 12.0", "cu126"),
    ),
    "5 of one of two": (
        checks_chain.no_kernels,
        on(WITH_H200, gpu=nvidia("580.95.05", (13, 0), m.GTX_1080_TI, m.H200)),
        ("warning", "GPU 0", "export CUDA_VISIBLE_DEVICES=1"),
    ),
    "6": (checks_chain.cpu_only, SCENES["CPU-only wheel"], ("error", "CPU build")),
    "7": (
        checks_system.vision_version,
        on(WITH_H200, python=m.python("2.15.0+cu132", "0.28.0+cu132", requires={"torchvision": ("torch (==2.13.0)",)})),
        ("error", "torchvision 0.28.0 requires torch (==2.13.0), but torch 2.15.0 is installed"),
    ),
    "8": (
        checks_system.vision_flavour,
        SCENES["flavours differ"],
        ("error", "CUDA 13.0, torch for the CPU", "libc10_cuda"),
    ),
    "8 one major": (
        checks_system.vision_flavour,
        on(WITH_H200, python=m.python("2.15.0+cu132", "0.29.2+cu130")),
        ("info", "CUDA 13.0, torch for CUDA 13.2: works"),
    ),
    "8 another reason": (
        checks_system.vision_flavour,
        on(WITHOUT_GPU, torch={"vision_error": "ImportError: libjpeg.so"}),
        ("error", "import torchvision fails: ImportError: libjpeg.so"),
    ),
    "9 wrong": (
        checks_chain.kernels_compute,
        on(WITH_H200, torch={"kernels": m.kernels("cuda:0", convolution="wrong")}),
        ("error", "convolution on cuda:0 is wrong"),
    ),
    "9 half precision": (
        checks_chain.kernels_compute,
        on(WITH_H200, torch={"kernels": m.kernels("cuda:0", matmul_bf16="failed")}),
        ("warning", "matmul bf16 on cuda:0 fails", "train.precision=fp32"),
    ),
    "9 all agree": (
        checks_chain.kernels_compute,
        on(WITH_H200, torch={"kernels": m.kernels("cuda:0", matmul_bf16="skipped")}),
        ("ok", "5 computations on cuda:0 agree with float64 on the CPU"),
    ),
    "9 CUDA does not start": (
        checks_chain.gpu_starts,
        on(WITH_H200, gpu={"modules": ("nvidia",)}, torch={"cuda_available": False, "cuda_error": "unknown error"}),
        ("error", "unknown error", "sudo modprobe nvidia_uvm"),
    ),
    "10 two generations": (
        checks_system.cudnn,
        on(WITH_H200, python={"packages": (CUDNN_12, CUDNN_13)}),
        ("warning", "9.10.2.21 and nvidia-cudnn-cu13", "pip uninstall nvidia-cudnn-cu12"),
    ),
    "10 another on the path": (
        checks_system.cudnn,
        on(WITH_H200, host={"cudnn_on_path": ("/opt/cuda/libcudnn.so.9",)}),
        ("warning", "/opt/cuda/libcudnn.so.9", "unset LD_LIBRARY_PATH"),
    ),
    "10 another is loaded": (
        checks_system.cudnn,
        on(WITH_H200, python={"packages": (CUDNN_13,)}, torch={"cudnn": 91002}),
        ("warning", "loads cuDNN 9.10, installed is 9.26.0.51"),
    ),
    "11": (
        checks_system.conda_and_pip,
        SCENES["conda and pip"],
        ("warning", "conda remove --force pytorch pytorch-cuda"),
    ),
    "11 the channel that ended": (
        checks_system.conda_and_pip,
        on(
            WITH_H200,
            python={
                "conda_packages": ("pytorch-2.5.1-py3.12_0",),
                "packages": (m.wheel("torch", "2.5.1+cu124", "conda"),),
            },
        ),
        ("info", "ended with PyTorch 2.5"),
    ),
    "12 hidden": (checks_chain.hidden, SCENES["hidden"], ("error", "unset CUDA_VISIBLE_DEVICES")),
    "12 out of range": (
        checks_chain.hidden,
        on(WITH_H200, host={"environment": {"CUDA_VISIBLE_DEVICES": "0,7"}}),
        ("warning", "0,7"),
    ),
    "12 behind a bad entry": (
        checks_chain.hidden,
        on(WITH_H200, host={"environment": {"CUDA_VISIBLE_DEVICES": "7,0"}}),
        ("error", "7,0"),
    ),
    "12 split": (checks_chain.hidden, h200(SPLIT), ("info", "MIG")),
    "12 exclusive": (checks_chain.hidden, h200(EXCLUSIVE), ("warning", "exclusive", "sudo nvidia-smi -i 0 -c DEFAULT")),
    "12 prohibited": (checks_chain.hidden, h200(PROHIBITED), ("error", "prohibited")),
    "12 container": (checks_chain.presence, SCENES["container without its GPU"], ("error", "docker run --gpus all")),
    "13 busy": (checks_system.gpu_busy, h200(FULL), ("warning", "120.0 of 141.0 GB are in use by 2 processes")),
    "13 hot": (checks_system.gpu_busy, h200(HOT), ("warning", "91 °C: heat")),
    "14": (checks_system.pcie_width, h200(replace(m.H200, pcie_lanes=4, pcie_lanes_max=16)), ("warning", "x4 of x16")),
    "14 half": (
        checks_system.pcie_width,
        h200(replace(m.H200, pcie_lanes=8, pcie_lanes_max=16)),
        ("info", "x8 of x16"),
    ),
    "15": (checks_system.cpus, SCENES["small container"], ("info", "2 of 64 CPUs usable")),
    "16": (checks_system.shared_memory, SCENES["small container"], ("warning", "64 MB", "docker run --shm-size=1g")),
    "16 no container": (
        checks_system.shared_memory,
        on(WITH_H200, host={"shm_bytes": 64 << 20}),
        ("warning", "remount,size=2g"),
    ),
    "17 memory": (
        checks_system.memory_and_limits,
        on(WITH_H200, host={"memory_available_bytes": 1 << 30}),
        ("warning", "1.0 of 64.0 GB of memory available"),
    ),
    "17 open files": (
        checks_system.memory_and_limits,
        on(WITH_H200, host={"open_files": 256}),
        ("warning", "256", "ulimit -n"),
    ),
    "17 disk": (
        checks_system.memory_and_limits,
        on(WITH_H200, host={"folder": Folder("/data", "ext4", free_bytes=1 << 30)}),
        ("warning", "1.0 GB free in /data"),
    ),
    "18 network": (
        checks_system.filesystem,
        on(WITH_H200, host={"folder": Folder("/data", "nfs4")}),
        ("info", "nfs4", "bench-io"),
    ),
    "18 Windows' disk": (
        checks_system.filesystem,
        on(WITH_H200, host={"wsl": True, "folder": Folder("/mnt/c/data", "9p", cold_read_mb_s=41.0)}),
        ("warning", "9p", "41 MB/s", "cp -r"),
    ),
    "18 turning": (
        checks_system.filesystem,
        on(WITH_H200, host={"folder": Folder("/data", "ext4", True, cold_read_mb_s=120.0)}),
        ("info", "rotating disk", "120 MB/s"),
    ),
    "19 P2P": (checks_system.several_gpus, on(WITH_H200, gpu=TWO, torch={"no_peer_access": ("0-1",)}), ("info", "0-1")),
    "19 NCCL": (checks_system.several_gpus, on(WITH_H200, gpu=TWO, torch={"nccl": False}), ("warning", "no NCCL")),
    "19 sum": (
        checks_system.sums,
        on(WITHOUT_GPU, torch={"sums": (SumOverProcesses("gloo", 2, 32_000_000, "failed", "no end after 30 s"),)}),
        ("warning", "2 processes", "no end after 30 s"),
    ),
    "20 tensorboard": (
        checks_system.own_packages,
        SCENES["old tensorboard"],
        ("warning", "pkg_resources", "tensorboard>=2.21"),
    ),
    "20 CUDA": (
        checks_system.unused_cuda,
        on(WITHOUT_GPU, python={"installed_bytes": 6_030_000_000, "cuda_bytes": 4_810_000_000}),
        ("info", "4.81 GB of the environment's 6.03 GB are CUDA", "torch torchvision --index-url", "/cpu"),
    ),
    "20 Python": (
        checks_system.own_packages,
        on(WITH_H200, python={"version": "3.10.4"}),
        ("warning", "torch 2.15.0+cu132 requires Python >=3.11, this is 3.10.4"),
    ),
    "20 torch": (
        checks_system.own_packages,
        on(WITH_H200, python=m.python("2.7.1+cu118", "0.29.2+cu118")),
        ("warning", "mlcli needs torch>=2.11, but torch 2.7.1 is installed"),
    ),
    "21 no driver lent": (
        checks_chain.wsl,
        on(WITHOUT_GPU, host={"wsl": True}),
        ("info", "install the NVIDIA driver 580 or newer in Windows"),
    ),
    "21 a driver inside": (checks_chain.wsl, SCENES["WSL2 with a Linux driver"], ("warning", "hides", "apt remove")),
    "21 no GPU": (
        checks_chain.wsl,
        on(WITHOUT_GPU, host={"wsl": True, "wsl_libcuda": True}),
        ("error", "wsl.exe --update"),
    ),
    "torch crashes": (
        checks_chain.torch_works,
        on(WITH_H200, torch=TorchFacts("crashed", "start CUDA", "SIGSEGV")),
        ("error", "crashes at 'start CUDA': SIGSEGV"),
    ),
    "torch hangs": (
        checks_chain.torch_works,
        on(WITH_H200, torch=TorchFacts("timed out", "import torch", "no end after 120 s")),
        ("error", "hangs at 'import torch'"),
    ),
    "Rosetta": (checks_chain.apple, on(SCENES["Apple silicon"], host={"rosetta": True}), ("error", "Rosetta")),
    "MPS not reached": (
        checks_chain.apple,
        on(SCENES["Apple silicon"], torch={"mps_available": False}),
        ("warning", "MPS"),
    ),
}


@pytest.mark.parametrize("case", FIRING)
def test_check_fires(case):
    check, facts, (severity, *words) = FIRING[case]
    fires(check, facts, severity, *words)


HEALTHY = {
    "GPU": on(WITH_H200, gpu=nvidia("610.43.02", (13, 3), replace(m.H200, pcie_lanes=16, pcie_lanes_max=16))),
    "two GPUs": on(WITH_H200, gpu=nvidia("610.43.02", (13, 3), m.H200, m.H200)),
    "no GPU": WITHOUT_GPU,
    "WSL2": on(SCENES["WSL2"], gpu={"driver_cuda": (13, 3)}),
    "Apple silicon": SCENES["Apple silicon"],
    "nothing known": Facts(),
}


@pytest.mark.parametrize("machine", HEALTHY)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_check_is_silent_on_a_healthy_machine(check, machine):
    findings = [finding for finding in check(Chain(HEALTHY[machine], TABLE)) if finding.severity != "ok"]
    no_gpu = [finding for finding in findings if "training runs on the CPU" in finding.text]
    assert findings == (no_gpu if check is checks_chain.presence else [])


def test_all_firing_checks_take_part():
    assert {check for check, _, _ in FIRING.values()} == set(CHECKS)


def test_live_facts_win_over_the_table():
    """A build that the table knows otherwise, a driver newer than the table, and the line that says what was used."""
    own_build = on(WITH_H200, gpu=nvidia("700.1", (14, 0), m.GTX_1080_TI), torch={"codes": ("sm_61",)})
    assert diagnose(Chain(own_build, TABLE)).exit_code == 0
    assert (
        diagnose(Chain(own_build, TABLE)).sources
        == "driver facts: NVML; build facts: torch; advice: table of 2026-11-23"
    )


def test_without_live_facts_the_table_speaks():
    broken = on(
        SCENES["GTX 1080 Ti with driver 580"],
        gpu={"driver_cuda": None},
        torch=TorchFacts("crashed", "import torch", "SIGSEGV"),
    )
    diagnosis = diagnose(Chain(broken, TABLE))
    assert "has no kernels for compute capability 6.1" in " ".join(finding.text for finding in diagnosis.findings)
    assert diagnosis.sources == (
        "driver facts: kernel module and table of 2026-11-23; "
        "build facts: files of the package and table of 2026-11-23; advice: table of 2026-11-23"
    )


def test_errors_go_before_warnings():
    both = on(
        SCENES["flavours differ"], host={"wsl": True, "wsl_libcuda": False, "foreign_libcuda": "/usr/lib64/libcuda.so"}
    )
    both = on(both, python={"version": "3.10.1"}, host={"shm_bytes": 1})
    diagnosis = diagnose(Chain(both, TABLE))
    assert (diagnosis.exit_code, diagnosis.command.split()[0]) == (2, "pip")
    assert diagnosis.verdict.startswith("PyTorch cannot be used: torchvision is built for CUDA 13.0")
    one_of_two = on(WITH_H200, gpu=nvidia("580.95.05", (13, 0), m.GTX_1080_TI, m.H200), torch={"vision_error": "gone"})
    assert diagnose(Chain(one_of_two, TABLE)).command.startswith(REINSTALL)  # not the warning that comes before it


def test_amd_through_rocm():
    card = GpuFacts((BusDevice("0000:03:00.0", "amd"),), nvml_code=12)
    without = on(WITHOUT_GPU, gpu=card)
    assert "ROCm" in next(checks_chain.presence(Chain(without, TABLE))).text
    with_rocm = on(without, python=m.python("2.15.0+rocm7.1", "0.29.2+rocm7.1"), torch={"cuda": "", "hip": "7.1"})
    diagnosis = diagnose(Chain(on(with_rocm, torch={"cuda_available": True}), TABLE))
    assert (diagnosis.exit_code, diagnosis.verdict) == (0, "The GPU can be used (ROCm).")


def test_an_environment_without_pip_is_uvs():
    facts = on(SCENES["CPU-only wheel"], python={"packages": (m.wheel("torch", "2.15.0+cpu", "uv"),)})
    assert next(checks_chain.cpu_only(Chain(facts, TABLE))).fix == "uv pip install --force-reinstall torch torchvision"


def test_what_could_not_be_found_out_is_said():
    diagnosis = diagnose(Chain(replace(WITH_H200, unknown=("gpu.bus: no answer within 5 s",)), TABLE))
    assert diagnosis.findings[-1].text == "could not be determined: gpu.bus: no answer within 5 s"
    assert diagnosis.exit_code == 0


def test_facts_and_diagnosis_are_json():
    facts = SCENES["conda and pip"]
    assert json.loads(json.dumps(asdict(facts)))["gpu"]["gpus"][0]["capability"] == [9, 0]
    assert json.loads(json.dumps(asdict(diagnose(Chain(facts, TABLE)))))["exit_code"] == 1
