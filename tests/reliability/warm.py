"""A whole short training and what follows one, so that all is imported and done for a first time before a fork.

The training the trials disturb then takes a quarter of a second; a first one takes three times as long.
"""

import contextlib
import functools
import io
import os
import signal
import tempfile
from pathlib import Path

import torch

from tests.reliability.runs import DIGITS, type_train

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@functools.cache
def warm_up() -> None:
    """Do it in this process, once. Where it is, its output and what it does at a signal stay as they were."""
    before, handlers = Path.cwd(), {number: signal.getsignal(number) for number in SIGNALS}
    torch.set_num_threads(1)
    quiet = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        Path(folder, "digits.yaml").write_text(DIGITS)
        try:
            type_train(Path(folder))
        finally:
            os.chdir(before)
    for number, handler in handlers.items():
        signal.signal(number, handler)
