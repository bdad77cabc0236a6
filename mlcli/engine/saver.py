"""Saving while training goes on: the state is copied to host memory, and a thread of its own writes the copy."""

import copy
from concurrent import futures
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from mlcli.engine.checkpoint import checkpoint_path, prune, save_checkpoint


class CheckpointSaver:
    """Writes the checkpoints of a run, one after the other in the order they were asked for.

    Training waits for the copy to host memory. Of the best and of the numbered checkpoints, one each may be on its way;
    a second of the same kind waits for the first, since it takes the same host memory. Once a write has failed, nothing
    more is written (a numbered checkpoint names the best one before it) and the next call of any method raises the
    OutputError. On leaving `with`, nothing is on its way any more.

    Args:
        folder: of the checkpoints.
        keep_last: how many of the numbered ones stay.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        self._folder, self._keep_last = folder, keep_last
        self._thread = _one_thread()
        self._pending: dict[str, futures.Future[None]] = {}
        self._copies = {"best": HostCopy(), "numbered": HostCopy()}
        self._error: BaseException | None = None

    def save(self, step: int, content: dict[str, Any]) -> None:
        """Have `content` written as the checkpoint of `step`; once it is verified, the oldest are deleted."""
        self._hand_over("numbered", checkpoint_path(self._folder, step), content)

    def save_best(self, content: dict[str, Any]) -> None:
        """Have `content` written as the best checkpoint, over the one before."""
        self._hand_over("best", self._folder / "best.ckpt", content)

    def raise_if_failed(self) -> None:
        """Raise what went wrong so far. Waits for nothing."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Return when everything asked for is on disk."""
        futures.wait(self._pending.values())
        self.raise_if_failed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait like `wait`, but raise nothing of its own if another error is on its way."""
        self._thread.shutdown()
        self._thread = _one_thread()
        if kind is None:
            self.raise_if_failed()

    def _hand_over(self, kind: str, path: Path, content: dict[str, Any]) -> None:
        if kind in self._pending:
            futures.wait([self._pending[kind]])
        self.raise_if_failed()
        self._pending[kind] = self._thread.submit(self._write, path, self._copies[kind].take(content))

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        if self._error is not None:
            return
        try:
            save_checkpoint(path, content)
            prune(self._folder, self._keep_last)
        except BaseException as error:  # raised by the next call, in the caller's thread
            self._error = error


def _one_thread() -> futures.ThreadPoolExecutor:
    """Starts with the first write."""
    return futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoints")


class HostCopy:
    """Copies of nested content whose tensors lie in host memory, which is kept from one copy to the next.

    Fresh memory would cost more than the copying: each page of it is faulted in first.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], Tensor] = {}

    @torch.no_grad()
    def take(self, content: dict[str, Any]) -> dict[str, Any]:
        """A copy of `content` as it is now; it is overwritten by the next. Tensors of one memory stay one."""
        shared: dict[tuple[Any, ...], Tensor] = {}
        devices: set[torch.device] = set()

        def copied(value: Any, at: tuple[Any, ...]) -> Any:
            if isinstance(value, Tensor):
                same = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
                if same not in shared or not value.numel():
                    shared[same] = self._copied(value, at)
                    devices.add(value.device)
                return shared[same]
            if isinstance(value, dict):
                whole = copy.copy(value)  # keeps the extra attribute of a state dict: the versions of its layers
                whole.update((key, copied(item, (*at, key))) for key, item in value.items())
                return whole
            if isinstance(value, list | tuple):
                return type(value)(copied(item, (*at, position)) for position, item in enumerate(value))
            return value

        whole = copied(content, ())
        for device in devices:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
        return whole

    def _copied(self, value: Tensor, at: tuple[Any, ...]) -> Tensor:
        """Into the memory kept for this place, or into new where nothing that fits is kept."""
        kept, from_gpu = self._kept.get(at), value.device.type == "cuda"
        if kept is None or (kept.shape, kept.dtype, kept.stride()) != (value.shape, value.dtype, value.stride()):
            kept = self._kept[at] = torch.empty_like(value, device="cpu", pin_memory=from_gpu)
        return kept.copy_(value, non_blocking=from_gpu)
