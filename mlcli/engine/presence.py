"""Who of the ranks is there, and why one is not: signs of life and last words, left at the store where they met."""

import contextlib
import datetime
import itertools
import json
import os
import signal
import socket
import threading
import time

import psutil
import torch.distributed as dist

from mlcli.errors import RankError, UserError

BEAT_S, SILENCE_S = 5.0, 60.0
"""How often each gives a sign of life, and after how long without one it is given up."""
ANSWER_S = 2.0
"""How long those that wait have to say so, once one of them has noticed that somebody is missing."""
FAREWELL_S = 20.0
"""How long a rank that ends early waits for the first one to say why ..."""
AFTERWARDS_S = 3.0
"""... and how much longer until it ends itself: the exit code of the one that ends first counts."""


class Presence:
    """What one rank says of itself to the others, and knows of them.

    store: at which they meet. With the first rank, or with what has started them, it may be gone: then the waits of
    torch.distributed itself are all that is left.
    """

    def __init__(self, store: dist.Store, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._meetings, self._seen, self._is_over = 0, set[int](), threading.Event()
        self._first_is_gone = False
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._store.set(f"process/{rank}", f"{socket.gethostname()} {os.getpid()}")

    def begin(self) -> None:
        """Give signs of life from now on. Called once all ranks are there, which have said which process they are."""
        for rank in range(self._size):
            self._was_killed(rank)
        self._beating.start()

    def meet(self) -> None:
        """Wait until all have come here, as long as those that have not are alive. Raises RankError."""
        self._meetings += 1
        missing = {rank: ("", time.monotonic()) for rank in range(self._size)}
        pause_s = 0.001
        with contextlib.suppress(RuntimeError):  # the store is gone with what has started them: the wait is a blind one
            self._store.set(f"came/{self._rank}", str(self._meetings))
            while missing := {r: of for r, of in missing.items() if int(self._word(f"came/{r}")) < self._meetings}:
                for rank, (beat, since_s) in missing.items():
                    if self._store.check([f"failed/{rank}"]):
                        raise self.failure_of(rank)
                    if (now := self._word(f"beat/{rank}")) != beat:
                        missing[rank] = now, time.monotonic()
                    elif self._was_killed(rank) or time.monotonic() - since_s > SILENCE_S:
                        raise self.missing("before or after steps", [rank])
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.25)

    def missing(self, when: str, silent: list[int] | None = None, why: str = "") -> UserError:
        """Find out why an exchange failed: what another rank has told of its end, or who does not answer.

        silent: who does not, where that is known already. why: what the exchange said.
        """
        try:
            self._store.set(f"waiting/{self._rank}", when)
            until = time.monotonic() + ANSWER_S
            while silent is None and time.monotonic() < until:
                for rank in range(self._size):
                    if rank != self._rank and self._store.check([f"failed/{rank}"]):
                        return self.failure_of(rank)
                time.sleep(0.05)
            if silent is None:
                silent = [rank for rank in range(self._size) if not self._store.check([f"waiting/{rank}"])]
            places = {rank: self._store.get(f"process/{rank}").decode().split() for rank in silent}
            here = {rank: int(pid) for rank, (host, pid) in places.items() if host == socket.gethostname()}
            ended = [rank for rank in silent if self._store.check([f"ended/{rank}"])]  # by another that waited for it
            gone = [rank for rank, pid in here.items() if not _lives(pid) and rank not in ended]
            for rank in here.keys() - gone:  # or they would be waited for by what has started them
                self._store.set(f"ended/{rank}", "")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(here[rank], signal.SIGKILL)
        except RuntimeError:  # the store was the first rank's
            self._first_is_gone = True
            return RankError("the first rank is gone", where=when, fix="its machine's log says more")
        if not silent:
            return RankError(f"the ranks have lost one another: {why}", where=when)
        self._first_is_gone = 0 in (gone or silent)
        names = ", ".join(f"rank {rank} (process {places[rank][1]} on {places[rank][0]})" for rank in gone or silent)
        what = f"{names} {'is gone' if gone else 'does not answer'}"
        fix = "the run can be resumed; ranks/N.log in its folder and the system's log say more"
        return RankError(what, where=f"the others wait for it {when}", fix=fix)

    def tell(self, error: BaseException) -> None:
        """Leave a word about why this rank ends."""
        told = error if isinstance(error, UserError) else UserError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(RuntimeError):
            self._store.set(f"failed/{self._rank}", json.dumps([told.what, told.where, told.fix]))

    def failure_of(self, rank: int) -> RankError:
        """What a rank has told of its end, as the error of the others."""
        what, where, fix = json.loads(self._store.get(f"failed/{rank}"))
        return RankError(f"rank {rank} failed: {what}", where=where, fix=fix)

    def end(self, error: BaseException | None) -> None:
        """Give no more signs of life, and leave a word about the error that ends this rank, if one does."""
        self._is_over.set()
        self._beating.join(ANSWER_S)
        if error is not None:
            self.tell(error)

    def take_leave(self, is_early: bool) -> None:
        """Wait, where this rank ends early, until the first one has said why; what has started them ends all when one
        has failed."""
        with contextlib.suppress(RuntimeError):
            if self._rank == 0:
                self._store.set("said", "")
            elif is_early and not self._first_is_gone:
                self._store.wait(["said"], datetime.timedelta(seconds=FAREWELL_S))
                time.sleep(AFTERWARDS_S)

    def _beat(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone
            for number in itertools.count():
                self._store.set(f"beat/{self._rank}", str(number))
                if self._is_over.wait(BEAT_S):
                    return

    def _was_killed(self, rank: int) -> bool:
        """Whether a process that was seen on this machine is there no longer."""
        host, pid = self._store.get(f"process/{rank}").decode().split()
        if host == socket.gethostname() and _lives(int(pid)):
            self._seen.add(rank)
            return False
        return rank in self._seen

    def _word(self, key: str) -> str:
        """A number in the store; 0 for none."""
        return self._store.get(key).decode() if self._store.check([key]) else "0"


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
