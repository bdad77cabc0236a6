"""Choose the PyTorch to install for the GPU and driver found, as a command to type. No torch in here."""

from dataclasses import dataclass

from mlcli.machine.env.chain import Chain
from mlcli.machine.env.compatibility import Build, dotted, numbers, pair, runs_on
from mlcli.machine.env.facts import Gpu

RECOMMENDED_DRIVER = "580"
"""R580: long-term branch (to June 2028), runs CUDA 13, and the last that knows Maxwell, Pascal and Volta."""


@dataclass(frozen=True)
class InstallAdvice:
    """An installation that makes PyTorch and the GPU fit.

    command: to type; for a driver where no command is known, what to do in words.
    why: a sentence on the choice, without a full stop.
    build: the PyTorch it installs; None for a CPU build or a driver.
    """

    command: str
    why: str
    build: Build | None = None
    is_driver: bool = False


def advise(chain: Chain) -> InstallAdvice:
    """Choose the newest PyTorch with kernels for the GPUs that the driver runs; else a newer driver or a CPU build."""
    gpus, system, runs = chain.visible_gpus or chain.facts.gpu.gpus, chain.facts.host.system, chain.driver_cuda
    if not gpus or gpus[0].capability is None:
        if chain.has_gpu:
            return InstallAdvice(install(chain, None), "PyTorch as it is published")
        return InstallAdvice(cpu_install(chain), "without a GPU the CPU build saves gigabytes")
    oldest = oldest_own_torch(chain)
    python = numbers(chain.facts.python.version)[:2]
    with_code = [
        build
        for build in _machine_builds(chain)
        if build.release >= oldest
        and (not python or build.oldest_python <= python <= (build.newest_python or python))
        and _covered(build, gpus)
    ]
    if not with_code:
        return InstallAdvice(
            cpu_install(chain),
            f"no PyTorch that mlcli runs with ({dotted(oldest)} or newer) has kernels for {chain.capability(gpus[0])}, "
            "so train on the CPU",
        )
    runnable = [build for build in with_code if runs is None or build.cuda[0] <= runs[0]]
    if not runnable:
        needed = chain.table.oldest_driver(min(build.cuda[0] for build in with_code), system)
        why = f"every PyTorch that mlcli runs with needs driver {needed} or newer; install {RECOMMENDED_DRIVER}"
        return InstallAdvice(driver_install(chain), why, is_driver=True)
    # The GPUs first, then the newest release; within one, what pip takes by itself needs no index to be named.
    build = max(runnable, key=lambda b: (_covered(b, gpus), b.release, b.on_pypi and system == "Linux", b.cuda))
    why = f"PyTorch {dotted(build.release)} for CUDA {dotted(build.cuda)}"
    return InstallAdvice(install(chain, build), why, build)


def install(chain: Chain, build: Build | None) -> str:
    """The pip command for a build, both packages from one place: mixed flavours do not load."""
    newest = max(known.release for known in _machine_builds(chain))
    if build is None or (build.release == newest and build.on_pypi and chain.facts.host.system == "Linux"):
        return f"{_pip(chain)} torch torchvision"
    pinned = "torch" if build.release == newest else f'"torch=={dotted(build.release)}.*"'
    return f"{_pip(chain)} {pinned} torchvision --index-url {chain.table.wheels}{build.tag}"


def cpu_install(chain: Chain) -> str:
    index = f" --index-url {chain.table.wheels}cpu" if chain.facts.host.system == "Linux" else ""
    return f"{_pip(chain)} torch torchvision{index}"


def driver_install(chain: Chain) -> str:
    """Return how this system installs the NVIDIA driver."""
    host, table = chain.facts.host, chain.table
    if host.wsl or host.system == "Windows":
        return f"install the NVIDIA driver {RECOMMENDED_DRIVER} or newer in Windows: {table.driver_page}"
    if not host.container and host.distribution in table.driver_install:
        return table.driver_install[host.distribution]
    place = " on the host of this container" if host.container else ""
    return f"install the NVIDIA driver {RECOMMENDED_DRIVER}{place}: {table.driver_page}"


def oldest_own_torch(chain: Chain) -> tuple[int, int]:
    """The oldest PyTorch mlcli itself runs with, from its own metadata; (0, 0) if not known."""
    own = chain.facts.python.requires.get("mlcli", ())
    return next((pair(text.removeprefix("torch>=")) for text in own if text.startswith("torch>=")), (0, 0))


def _machine_builds(chain: Chain) -> tuple[Build, ...]:
    return chain.table.builds["aarch64" if chain.facts.host.machine in ("aarch64", "arm64") else "x86_64"]


def _covered(build: Build, gpus: tuple[Gpu, ...]) -> int:
    return sum(gpu.capability is not None and runs_on(build.codes, gpu.capability, build.cuda) for gpu in gpus)


def _pip(chain: Chain) -> str:
    """Without --force-reinstall pip keeps a torchvision of another flavour, since its version number fits."""
    python = chain.facts.python
    # An environment made by uv has no pip, and another Python's pip would install elsewhere.
    pip = "pip install" if python.package("pip") or not python.packages else "uv pip install"
    return f"{pip} --force-reinstall" if python.package("torch") or python.package("torchvision") else pip
