"""Starting the processes of one training on this machine, by torchrun's own launcher (torch.distributed.launcher)."""

import logging
import os
import signal
import sys
import uuid

from mlcli.engine.limits import available_memory_bytes, usable_threads
from mlcli.engine.processes import Place
from mlcli.errors import ConfigError, ExitCode
from mlcli.text import size

MOST_PROCESSES = 1024
PROCESS_BYTES = 250_000_000
"""That a process takes at least, once torch is imported."""
SAVING_S = 600
"""How long processes have for the step they are in and its checkpoint, once they are asked to stop."""


def number_of_processes(devices: str, here: Place) -> int:
    """Return how many processes `--devices` asks to be started; 1 for none, where all run already.

    auto: one for each GPU, or one where there are none. Raises ConfigError.
    """
    if devices == "auto":
        import torch

        return 1 if here.size > 1 else max(1, torch.cuda.device_count())
    if not (devices.isascii() and devices.isdecimal() and 0 < int(devices) <= MOST_PROCESSES):
        raise ConfigError(f"'{devices}' is no number of processes", where="--devices", fix="--devices 2, or auto")
    if here.size > 1 and here.size != int(devices):
        what = f"--devices asks for {devices} processes, but this is one of {here.size} that were started together"
        raise ConfigError(what, where="--devices", fix=f"leave it out, or start {devices} (torchrun, srun --ntasks)")
    return 1 if here.size > 1 else int(devices)


def launch_here(count: int) -> int:
    """Run this very command in `count` processes on this machine, by torchrun's launcher.

    Returns the exit code: that of the first rank, or 9 where another has ended the training. Raises ConfigError for
    more than fit into memory.
    """
    if (needed := count * PROCESS_BYTES) > (available := available_memory_bytes()):
        what = f"{count} processes take {size(needed)} of memory and more, and {size(available)} are available"
        fits = max(1, available // PROCESS_BYTES // 2)
        raise ConfigError(what, where="--devices", fix=f"--devices {fits} or fewer, or auto: one for each GPU")
    import psutil
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # the first rank says what happens
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SAVING_S))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_threads()[0] // count)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    # Python would look for modules in the working directory first, which the command `mlcli` does not.
    safe = [] if os.getcwd() in map(os.path.abspath, sys.path) else ["-P"]
    try:
        elastic_launch(config, sys.executable)(*safe, "-m", "mlcli", *sys.argv[1:])
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        # As soon as one has ended, the others are asked to stop: that they did is no cause.
        causes = {rank: code for rank, code in codes.items() if code != ExitCode.TERMINATED} or codes
        if causes.get(0, -1) > 0:
            return causes[0]
        ended = [f"rank {rank} was ended by {signal.Signals(-code).name}" for rank, code in causes.items() if code < 0]
        print(f"error: {'; '.join(ended) or 'a rank failed'}", file=sys.stderr)
        print("fix:   mlcli train --resume latest --devices N goes on; mlcli runs shows the run", file=sys.stderr)
        return ExitCode.RANK
    except SignalException as stopped:
        for left in psutil.Process().children(recursive=True):  # after a third signal: the second is passed on as well
            left.kill()
        return ExitCode.INTERRUPTED if stopped.sigval == signal.SIGINT else ExitCode.TERMINATED
    return ExitCode.OK
