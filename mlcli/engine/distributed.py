"""Several ranks, on torch.distributed: NCCL between GPUs, gloo elsewhere.

What all must agree on, such as whether one of them is out of memory or was asked to stop, is exchanged once a step,
after the backward passes and before the gradients are summed, by gloo between the processes' own memory: no GPU is
waited for, and no rank is left behind in a sum that another never comes to. DistributedDataParallel sums while the
backward pass runs; a rank that fails in there leaves the others hanging.
"""

import contextlib
import datetime
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mlcli.engine.contract import each_tensor
from mlcli.engine.presence import Presence
from mlcli.engine.processes import Place, place, rendezvous_of_slurm
from mlcli.engine.ranks import ALONE, Ranks
from mlcli.engine.resume import differences
from mlcli.engine.runtime import is_out_of_memory, to_device
from mlcli.engine.stop import StopRequest
from mlcli.engine.sync_norm import is_synchronised, synchronise
from mlcli.engine.terms import Term, Terms
from mlcli.errors import ConfigError, OutOfMemoryError, RankError
from mlcli.text import first_few, truncated

STEP_TIMEOUT_S = 60.0
"""How long ranks wait for one another in a step before one is given up, unless half of loader.timeout is longer."""
START_S = 300.0
"""How long they wait in the first step, where one may compile longer than another, and for all to be started ..."""
QUIET_S = 15.0
"""... and how long before a word about it."""
PATIENCE_S = 3600.0
"""How long they wait outside of steps, while data are prepared, measured and drawn: for those that are alive."""
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
        self._present = torch.zeros(0, dtype=torch.uint8)
        self._presence = Presence(dist.PrefixStore("mlcli", store), self.rank, self.size)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if here.local_size == here.size and sys.platform == "linux":  # gloo looks the machine's own name up otherwise
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        backend, patience = "nccl" if device.type == "cuda" else "gloo", datetime.timedelta(seconds=PATIENCE_S)
        sums = dist.PrefixStore("sums", store)
        dist.init_process_group(backend, store=sums, rank=here.rank, world_size=here.size, timeout=patience)
        self._patient = self._steps = self._later_steps = _group(patience, "gloo")
        self._sums = dist.group.WORLD
        self._presence.begin()

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
                self._presence.meet()
        if failure is not None and code == FAILED:
            self._presence.tell(failure)
        received = self._stop.received if self._stop else None
        present = [parameter.grad is not None and code == FINE for parameter in parameters]
        said = torch.tensor([*[FINE] * self.size, received or 0, *present], dtype=torch.uint8)
        said[self.rank] = code
        place = "in a step" if parameters else "before or after steps"
        # Who has told of its failure is not asked about others: they may have read it and left before this has ended.
        with contextlib.suppress(RuntimeError) if code == FAILED else self._noticing(place):
            dist.all_reduce(said, dist.ReduceOp.MAX, group=group)
        codes, asked, self._present = said[: self.size].tolist(), int(said[self.size]), said[self.size + 1 :]
        if self._stop and asked:
            self._stop.signal = signal.Signals(asked)
        if failure is not None and (code == FAILED or FAILED not in codes):
            raise failure
        if FAILED in codes:
            raise self._presence.failure_of(codes.index(FAILED))
        if OUT_OF_MEMORY in codes:
            where = f"rank {codes.index(OUT_OF_MEMORY)}"
            fix = "train.auto_microbatch=true or a smaller train.batch_size"
            raise OutOfMemoryError("a micro-batch does not fit into memory", where=where, fix=fix)
        return result

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
            self._presence.meet()
            dist.all_gather_object(values, self._to_send(value), group=self._patient)
        return values

    def _to_send(self, value: T) -> T:
        """Return the value with its tensors in the memory of the host: another process has another GPU."""
        return each_tensor(lambda tensor: tensor.cpu(), value) if self._device.type == "cuda" else value

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
        sums = torch.stack([to_device(number, device) for number in numbers])
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
            raise self._presence.missing(when, why=str(error).partition("\n")[0]) from error

    def leave(self, error: BaseException | None) -> None:
        self._presence.end(error)
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
        self._presence.take_leave(is_early=error is not None or (self._stop is not None and self._stop()))


@contextlib.contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
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
