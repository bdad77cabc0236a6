"""Several ranks, on torch.distributed: NCCL between GPUs, gloo elsewhere.

What all must agree on, such as whether one of them is out of memory or was asked to stop, is exchanged once a step,
after the backward passes and before the gradients are summed, by gloo between the processes' own memory: no GPU is
waited for, and no rank is left behind in a sum that another never comes to. DistributedDataParallel sums while the
backward pass runs; a rank that fails in there leaves the others hanging.
"""

import contextlib
import copy
import datetime
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mlcli.engine.processes import Place, place, rendezvous_of_slurm
from mlcli.engine.ranks import ALONE, Ranks
from mlcli.engine.resume import differences
from mlcli.engine.runtime import is_out_of_memory
from mlcli.engine.stop import StopRequest
from mlcli.engine.sync_norm import is_synchronised, synchronise
from mlcli.engine.terms import Term, Terms
from mlcli.errors import ConfigError, OutOfMemoryError, RankError, UserError
from mlcli.text import first_few, truncated

STEP_TIMEOUT_S = 60.0
"""How long ranks wait for one another in a step before one is given up, unless half of loader.timeout is longer."""
START_S = 300.0
"""How long they wait in the first step, where one may compile longer than another, and for all to be started ..."""
QUIET_S = 15.0
"""... and how long before a word about it."""
PATIENCE_S = 3600.0
"""How long they wait outside of steps, while data are prepared, measured and drawn: for those that are alive."""
BEAT_S, SILENCE_S = 5.0, 60.0
"""How often each gives a sign of life, and after how long without one it is given up."""
ANSWER_S = 2.0
"""How long those that wait have to say so, once one of them has noticed that somebody is missing."""
FAREWELL_S = 20.0
"""How long a rank that ends early waits for the first one to say why ..."""
AFTERWARDS_S = 3.0
"""... and how much longer until it ends itself: the exit code of the one that ends first counts."""
BUCKET = 8_000_000
"""Numbers that are summed at once: 32 MB of fp32, as DistributedDataParallel's buckets of 25."""
FINE, OUT_OF_MEMORY, FAILED = 0, 1, 2

T = TypeVar("T")


class DistributedRanks(Ranks):
    """One of several; see `Ranks`.

    Args:
        here: the place of this process among them.
        device: of the model; its gradients are summed by NCCL on a GPU, by gloo elsewhere.
        store: at which they meet.

    Raises RuntimeError if they do not find one another.
    """

    def __init__(self, here: Place, device: torch.device, store: dist.Store) -> None:
        self.rank, self.size = here.rank, here.size
        self._device = device
        self._stop: StopRequest | None = None
        self._first_is_gone = False
        self._present = torch.zeros(0, dtype=torch.uint8)
        self._store = dist.PrefixStore("mlcli", store)
        self._store.set(f"process/{self.rank}", f"{socket.gethostname()} {os.getpid()}")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if here.local_size == here.size and sys.platform == "linux":  # gloo looks the machine's own name up otherwise
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        backend, patience = "nccl" if device.type == "cuda" else "gloo", datetime.timedelta(seconds=PATIENCE_S)
        sums = dist.PrefixStore("sums", store)
        dist.init_process_group(backend, store=sums, rank=here.rank, world_size=here.size, timeout=patience)
        self._patient = self._steps = self._later_steps = _group(patience, "gloo")
        self._sums = dist.group.WORLD
        self._meetings, self._seen, self._is_over = 0, set[int](), threading.Event()
        for rank in range(self.size):  # all have said by now which process they are
            self._was_killed(rank)
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()

    # --- agreeing ----------------------------------------------------------------------------------------------------

    def together(self, work: Callable[[], T]) -> T:
        return self._together(work, self._patient)

    def _together(self, work: Callable[[], T], group: Any, parameters: Sequence[nn.Parameter] = ()) -> T:
        """Do as `together` says; `_present` then has, for each parameter, whether any rank has a gradient of it."""
        try:
            result, failure = work(), None
        except RankError:
            raise
        except Exception as error:
            if self.syncs_norms and parameters:  # the others are in the forward pass, and cannot be asked to wait
                raise
            failure = error
        code = FINE if failure is None else OUT_OF_MEMORY if is_out_of_memory(failure) else FAILED
        with self._noticing("before or after steps"):
            if group is self._patient:
                self._meet()
        if failure is not None and code == FAILED:
            self._tell(failure)
        received = self._stop.received if self._stop else None
        present = [parameter.grad is not None and code == FINE for parameter in parameters]
        said = torch.tensor([*[FINE] * self.size, received or 0, *present], dtype=torch.uint8)
        said[self.rank] = code
        with self._noticing("in a step" if parameters else "before or after steps"):
            dist.all_reduce(said, dist.ReduceOp.MAX, group=group)
        codes, asked, self._present = said[: self.size].tolist(), int(said[self.size]), said[self.size + 1 :]
        if self._stop and asked:
            self._stop.signal = signal.Signals(asked)
        if failure is not None and (code == FAILED or FAILED not in codes):
            raise failure
        if FAILED in codes:
            raise self._failure_of(codes.index(FAILED))
        if OUT_OF_MEMORY in codes:
            where = f"rank {codes.index(OUT_OF_MEMORY)}"
            fix = "train.auto_microbatch=true or a smaller train.batch_size"
            raise OutOfMemoryError("a micro-batch does not fit into memory", where=where, fix=fix)
        return result

    def _beat(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone
            for number in itertools.count():
                self._store.set(f"beat/{self.rank}", str(number))
                if self._is_over.wait(BEAT_S):
                    return

    def _meet(self) -> None:
        """Wait until all have come here, as long as those that have not are alive. Raises RankError."""
        self._meetings += 1
        missing = {rank: ("", time.monotonic()) for rank in range(self.size)}
        pause_s = 0.001
        with contextlib.suppress(RuntimeError):  # the store is gone with what has started them: the wait is a blind one
            self._store.set(f"came/{self.rank}", str(self._meetings))
            while missing := {r: of for r, of in missing.items() if int(self._word(f"came/{r}")) < self._meetings}:
                for rank, (beat, since_s) in missing.items():
                    if self._store.check([f"failed/{rank}"]):
                        raise self._failure_of(rank)
                    if (now := self._word(f"beat/{rank}")) != beat:
                        missing[rank] = now, time.monotonic()
                    elif self._was_killed(rank) or time.monotonic() - since_s > SILENCE_S:
                        raise self._missing("before or after steps", [rank])
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, 0.25)

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

    def follow(self, stop: StopRequest, batch_s: float) -> None:
        self._stop = stop
        stop.asks_others = True
        timeout = datetime.timedelta(seconds=max(STEP_TIMEOUT_S, batch_s / 2))
        self._steps, self._later_steps = _group(datetime.timedelta(seconds=START_S), "gloo"), _group(timeout, "gloo")
        self._sums = _group(timeout, None)

    def from_first(self, work: Callable[[], T]) -> T:
        box: list[Any] = [self._to_send(self.together(work if self.is_first else lambda: None))]
        with self._noticing("before or after steps"):
            dist.broadcast_object_list(box, src=0, group=self._patient)
        return box[0]

    def in_turn(self, work: Callable[[], T]) -> T:
        nothing: Callable[[], Any] = lambda: None  # noqa: E731
        first = self.together(work if self.is_first else nothing)
        rest = self.together(nothing if self.is_first else work)
        return first if self.is_first else rest

    def gathered(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        with self._noticing("before or after steps"):
            self._meet()
            dist.all_gather_object(values, self._to_send(value), group=self._patient)
        return values

    def _to_send(self, value: T) -> T:
        """Return the value with its tensors in the memory of the host: another process has another GPU."""
        return on_host(value) if self._device.type == "cuda" else value

    def same(self, what: str, value: dict[str, Any]) -> None:
        texts = self.gathered(json.dumps(value, sort_keys=True, default=str))
        for rank, text in enumerate(texts):
            if text != texts[0]:
                found = differences(json.loads(texts[0]), json.loads(text))
                told = [f"{key} is {truncated(f'{a!r}, not {b!r}', 100)}" for key, (b, a) in found.items()]
                raise RankError(f"rank {rank} has other {what} than the first", where=first_few(told, 3),
                                fix="the same command, files and versions for all ranks")  # fmt: skip

    # --- summing -----------------------------------------------------------------------------------------------------

    def summed(
        self, work: Callable[[], Terms], parameters: Sequence[nn.Parameter] = (), averaged: Sequence[Tensor] = ()
    ) -> Terms:
        terms = self._together(work, self._steps, parameters)
        self._steps = self._later_steps
        for parameter, present in zip(parameters, self._present.tolist(), strict=False):
            if present and parameter.grad is None:  # of a part of the model that this rank's samples did not reach
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        numbers = [
            value.detach().float() if isinstance(value, Tensor) else torch.tensor(float(value))
            for term in terms.values()
            for value in (term.mean * term.divisor, term.count)
        ]
        device = next(iter(terms.values())).mean.device
        sums = torch.stack([number.to(device, non_blocking=True) for number in numbers])
        with self._noticing("while gradients are summed"):
            for bucket in _buckets([sums, *averaged, *gradients]):
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
                dist.all_reduce(flat, group=self._sums)
                for tensor, total in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                    tensor.copy_(total.view_as(tensor))
        for tensor in averaged:
            tensor.div_(self.size)
        return {name: Term.of(*pair) for name, pair in zip(terms, sums.view(-1, 2), strict=True)}

    def sum_of(self, values: Tensor) -> Tensor:
        """Return the sums over all ranks, as for the statistics of batch normalisation. Raises RankError."""
        sums = values.clone()
        with self._noticing("in batch normalisation"):
            dist.all_reduce(sums, group=self._sums)
        return sums

    def synchronise(self, model: nn.Module) -> None:
        synchronise(model, self.sum_of)
        self.syncs_norms = is_synchronised(model)

    # --- failing -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _noticing(self, when: str) -> Iterator[None]:
        """Turn a failed exchange into the RankError that says who is missing."""
        try:
            yield
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise self._missing(when, why=str(error).partition("\n")[0]) from error

    def _missing(self, when: str, silent: list[int] | None = None, why: str = "") -> UserError:
        """Find out why an exchange failed: what another rank has told of its end, or who does not answer.

        silent: who does not, where that is known already. why: what the exchange said.
        """
        try:
            self._store.set(f"waiting/{self.rank}", when)
            until = time.monotonic() + ANSWER_S
            while silent is None and time.monotonic() < until:
                for rank in range(self.size):
                    if rank != self.rank and self._store.check([f"failed/{rank}"]):
                        return self._failure_of(rank)
                time.sleep(0.05)
            if silent is None:
                silent = [rank for rank in range(self.size) if not self._store.check([f"waiting/{rank}"])]
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

    def _tell(self, error: BaseException) -> None:
        """Leave a word about why this rank ends."""
        told = error if isinstance(error, UserError) else UserError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(RuntimeError):
            self._store.set(f"failed/{self.rank}", json.dumps([told.what, told.where, told.fix]))

    def _failure_of(self, rank: int) -> RankError:
        """What a rank has told of its end, as the error of the others."""
        what, where, fix = json.loads(self._store.get(f"failed/{rank}"))
        return RankError(f"rank {rank} failed: {what}", where=where, fix=fix)

    def leave(self, error: BaseException | None) -> None:
        self._is_over.set()
        self._beating.join(ANSWER_S)
        if error is not None:
            self._tell(error)
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
        is_early = error is not None or (self._stop is not None and self._stop())
        with contextlib.suppress(RuntimeError):
            if self.is_first:
                self._store.set("said", "")
            elif is_early and not self._first_is_gone:  # what has started them ends all when one has failed
                self._store.wait(["said"], datetime.timedelta(seconds=FAREWELL_S))
                time.sleep(AFTERWARDS_S)


@contextlib.contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Within this context the process is one of the ranks that the environment speaks of; alone if of none.

    device: as in the train section. Raises ConfigError for more processes than GPUs, RankError if the ranks do not find
    one another.
    """
    here = place()
    ranks = ALONE if here.size == 1 else _join(device, here)
    try:
        yield ranks
    except BaseException as error:
        ranks.leave(error)
        raise
    ranks.leave(None)


def _join(device: str, here: Place) -> Ranks:
    where = torch.device("cpu")
    if device in ("auto", "cuda") and torch.cuda.is_available():
        if here.local_size > torch.cuda.device_count():
            what = f"{here.local_size} processes on this machine, but {torch.cuda.device_count()} GPUs"
            raise ConfigError(what, where="number of processes", fix="one process for each GPU, or train.device=cpu")
        where = torch.device("cuda", here.local_rank)
    if "RANK" not in os.environ:
        host, port = rendezvous_of_slurm()
        os.environ.setdefault("MASTER_ADDR", host)
        os.environ.setdefault("MASTER_PORT", str(port))
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    fix = "are all of them started, and can the machines reach one another?"
    waits = f"rank {here.rank} of {here.size} waits for the others at {address}, {START_S:g} seconds at most; {fix}"
    told = threading.Timer(QUIET_S, print, (waits,), {"file": sys.stderr, "flush": True})
    told.daemon = True
    told.start()
    try:
        url = f"env://?rank={here.rank}&world_size={here.size}"
        store, _, _ = next(iter(dist.rendezvous(url, timeout=datetime.timedelta(seconds=START_S))))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's store outlives those it starts again
        return DistributedRanks(here, where, dist.PrefixStore(f"attempt/{attempt}", store))
    except (RuntimeError, ValueError) as error:
        what = f"rank {here.rank} of {here.size} does not find the others: {str(error).splitlines()[0]}"
        raise RankError(what, where=address, fix=fix) from error
    finally:
        told.cancel()


def on_host(value: Any) -> Any:
    """Return a copy of nested values and plain objects whose tensors lie in the memory of the host."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: on_host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [on_host(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value):
        copied = copy.copy(value)
        vars(copied).update((name, on_host(item)) for name, item in vars(copied).items())
        return copied
    return value


def _group(timeout: datetime.timedelta, backend: str | None) -> dist.ProcessGroup:
    """Return a new group of all ranks. backend: that of the sums unless given."""
    group = dist.new_group(backend=backend, timeout=timeout)
    assert isinstance(group, dist.ProcessGroup)  # every rank is a member
    return group


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in groups of one type and about `BUCKET` numbers, in their order."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(map(Tensor.numel, bucket)) + tensor.numel() > BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
