"""Trials in processes of their own: forked from a server that has torch and mlcli loaded, about 0.1 s each."""

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from mlcli.errors import UserError

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["tests.reliability.warmed"])


class Ended(NamedTuple):
    """What came of a trial.

    code: exit code as a command would have it, or minus the signal that killed it. result: what the function returned;
    the message of a UserError; the traceback of any other error; None if killed. out: what it printed.
    """

    code: int
    result: Any
    out: str


class Trial:
    """A function at work in a process of its own."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._pipe, there = _server.Pipe(duplex=False)
        self._process = _server.Process(target=_serve, args=(there, function, arguments))
        self._process.start()
        there.close()
        self.pid: int = self._process.pid or 0

    def wait(self, limit_s: float = 60.0) -> Ended:
        """Its end. One that takes longer than `limit_s` is killed, and that is a failure of the test."""
        result, out = None, ""
        with contextlib.suppress(EOFError):  # killed before it could say anything
            assert self._pipe.poll(limit_s), f"still running after {limit_s} s{self._stopped()}"
            result, out = self._pipe.recv()
        self._process.join(limit_s)
        return Ended(self._process.exitcode or 0, result, out)

    def kill_after(self, delay_s: float) -> Ended:
        """SIGKILL, unless it ends before."""
        self._process.join(delay_s)
        self._stopped()
        return self.wait()

    def _stopped(self) -> str:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return ""


def in_child(function: Callable[..., Any], *arguments: Any) -> Ended:
    return Trial(function, *arguments).wait()


def _serve(pipe: Connection, function: Callable[..., Any], arguments: tuple) -> None:
    out, code, result = io.StringIO(), 0, None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            result = function(*arguments)
        except UserError as error:
            result, code = str(error), int(error.code)
        except Exception:
            result, code = traceback.format_exc(), 1
    pipe.send((result, out.getvalue()))
    sys.exit(code)
