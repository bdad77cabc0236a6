"""Which PyTorch to install for the GPU and driver found, as a command to type. No torch in here."""

from dataclasses import dataclass

from mlcli.machine.env import links
from mlcli.machine.env.compatibility import Build, Table, dotted, runs_on, translated_on
from mlcli.machine.env.facts import Facts, Gpu

RECOMMENDED_DRIVER = "580"
"""R580: long-term branch (to June 2028), runs CUDA 13, and the last that knows Maxwell, Pascal and Volta."""


@dataclass(frozen=True)
class Advice:
    """What to do so that PyTorch and the GPU fit.

    command: to type; for a driver where no command is known, what to do in words.
    why: a sentence on the choice, without a full stop.
    build: the PyTorch it installs; None for a CPU build or a driver.
    """

    command: str
    why: str
    build: Build | None = None
    is_driver: bool = False


def advise(facts: Facts, table: Table) -> Advice:
    """The newest PyTorch with code for the visible GPUs that the driver runs, else a newer driver, else a CPU build."""
    gpus = links.visible_gpus(facts) or facts.gpu.gpus
    system, runs = facts.host.system, links.driver_cuda(facts, table)
    if not gpus or gpus[0].capability is None:
        if links.has_gpu(facts):
            return Advice(install(facts, table, None), "PyTorch as it is published")
        return Advice(cpu_install(facts, table), "without a GPU the CPU build saves gigabytes")
    with_code = [build for build in _possible(facts, table) if _covered(build, gpus)]
    if not with_code:
        return Advice(
            cpu_install(facts, table),
            f"no PyTorch that mlcli runs with ({dotted(links.oldest_own_torch(facts))} or newer) has kernels for "
            f"{links.gpu_text(gpus[0], table)}, so train on the CPU",
        )
    # The GPUs first, then the newest release; within one, what pip takes by itself needs no index to be named.
    best_first = sorted(
        with_code, key=lambda b: (_covered(b, gpus), b.release, b.on_pypi and system == "Linux", b.cuda), reverse=True
    )
    runnable = [build for build in best_first if runs is None or build.cuda[0] <= runs[0]]
    if not runnable:
        needed = table.oldest_driver(min(build.cuda[0] for build in with_code), system)
        return Advice(
            driver_install(facts, table),
            f"every PyTorch that mlcli runs with needs driver {needed} or newer; install {RECOMMENDED_DRIVER}",
            is_driver=True,
        )
    build = runnable[0]
    return Advice(install(facts, table, build), f"PyTorch {dotted(build.release)} for CUDA {dotted(build.cuda)}", build)


def install(facts: Facts, table: Table, build: Build | None) -> str:
    """The pip command for a build, both packages from one place: mixed flavours do not load."""
    newest = max(known.release for known in _machine_builds(facts, table))
    if build is None or (build.release == newest and build.on_pypi and facts.host.system == "Linux"):
        return f"{_pip(facts)} torch torchvision"
    pinned = "torch" if build.release == newest else f'"torch=={dotted(build.release)}.*"'
    return f"{_pip(facts)} {pinned} torchvision --index-url {table.wheels}{build.tag}"


def cpu_install(facts: Facts, table: Table) -> str:
    index = f" --index-url {table.wheels}cpu" if facts.host.system == "Linux" else ""
    return f"{_pip(facts)} torch torchvision{index}"


def driver_install(facts: Facts, table: Table) -> str:
    """How this system installs the NVIDIA driver."""
    if facts.host.wsl or facts.host.system == "Windows":
        return f"install the NVIDIA driver {RECOMMENDED_DRIVER} or newer in Windows: {table.driver_page}"
    known = "" if facts.host.container else table.driver_install.get(facts.host.distribution, "")
    place = " on the host of this container" if facts.host.container else ""
    return known or f"install the NVIDIA driver {RECOMMENDED_DRIVER}{place}: {table.driver_page}"


def keep_driver(gpu: Gpu, table: Table) -> str:
    """ "keep driver R580, the last for Pascal"; empty for a GPU that new drivers know."""
    known = table.architecture(gpu.capability)
    return f"keep driver R{known.last_driver}, the last for {known.name}" if known and known.last_driver else ""


def _possible(facts: Facts, table: Table) -> list[Build]:
    """Builds for this machine and Python that mlcli itself runs with."""
    python, oldest = links.python_version(facts), links.oldest_own_torch(facts)
    return [
        build
        for build in _machine_builds(facts, table)
        if build.release >= oldest
        and (not python or (build.python[0] <= python and (build.python[1] is None or python <= build.python[1])))
    ]


def _machine_builds(facts: Facts, table: Table) -> tuple[Build, ...]:
    return table.builds["aarch64" if facts.host.machine in ("aarch64", "arm64") else "x86_64"]


def _covered(build: Build, gpus: tuple[Gpu, ...]) -> int:
    return sum(gpu.capability is not None and runs_on(build.codes, gpu.capability, build.cuda) for gpu in gpus)


def _pip(facts: Facts) -> str:
    """Without --force-reinstall pip keeps a torchvision of another flavour, since its version number fits."""
    installed = any(facts.python.package(name) for name in ("torch", "torchvision"))
    # An environment made by uv has no pip, and another Python's pip would install elsewhere.
    pip = "pip install" if facts.python.package("pip") or not facts.python.packages else "uv pip install"
    return f"{pip} --force-reinstall" if installed else pip


def newer_driver_helps(facts: Facts, table: Table, gpu: Gpu) -> bool:
    """Whether the installed PyTorch would run on this GPU if only the driver were new enough."""
    inside = links.codes(facts, table)
    if gpu.capability is None or not inside:
        return True
    return runs_on(inside, gpu.capability, links.build_cuda(facts)) or translated_on(inside, gpu.capability)
