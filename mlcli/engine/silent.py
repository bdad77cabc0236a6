"""What a rank other than the first writes of a training: nothing. The first one owns the run's files and the screen."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from mlcli.engine.board import Board
from mlcli.engine.layer_stats import LayerStats
from mlcli.engine.log import RunLog, Screen
from mlcli.engine.membership import Membership
from mlcli.engine.meter import Rates
from mlcli.engine.run import RunFolder
from mlcli.engine.saver import CheckpointSaver


class SilentRun(RunFolder):
    """The first rank's run folder, which this one leaves alone."""

    def status_or_empty(self) -> dict[str, Any]:
        return {}

    def update_status(self, **changes: Any) -> None:
        pass

    def write_membership(self, members: Membership) -> None:
        pass

    def write_bytes(self, name: str, content: bytes) -> None:
        pass

    def write_picture(self, title: str, picture: Any) -> None:
        pass

    def lock(self) -> None:
        pass

    def discard(self) -> None:
        pass

    def unlock(self) -> None:
        pass


class SilentLog(RunLog):
    """No numbers."""

    offset = 0

    def __init__(self) -> None:
        self.tensorboard: Any = SimpleNamespace()

    def scalars(self, split: str, step: int, epoch: int, values: dict[str, float], **_: Any) -> None:
        pass

    def layers(self, stats: LayerStats) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class SilentBoard(Board):
    """No pictures, nor anything else for TensorBoard."""

    def __init__(self) -> None:
        pass

    def opening(self, *_: Any) -> None:
        pass

    def hparams(self, *_: Any) -> None:
        pass


class SilentScreen(Screen):
    """No bar and no lines."""

    def __init__(self) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def step(self, epoch: int, done: int) -> None:
        pass

    def clear(self) -> None:
        pass

    def epoch(self, epoch: int, scores: dict[str, dict[str, float]], lr: float, rates: Rates, best: bool) -> None:
        pass


class SilentSaver(CheckpointSaver):
    """No checkpoints."""

    def __init__(self) -> None:
        super().__init__(Path(), 0)

    def save(self, step: int, content: dict[str, Any]) -> None:
        pass

    def save_best(self, content: dict[str, Any]) -> None:
        pass

    def __enter__(self) -> Self:
        return self
