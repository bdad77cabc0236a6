"""What a rank other than the first writes of a training: nothing. The first one owns the run's files and the screen."""

from pathlib import Path
from typing import Any

from mlcli.engine.board import Board
from mlcli.engine.log import RunLog, Screen
from mlcli.engine.run import RunFolder
from mlcli.engine.saver import CheckpointSaver


def nothing(*_: Any, **__: Any) -> Any:
    """Do nothing, whatever is asked for: a method of all classes here."""


class SilentRun(RunFolder):
    """The first rank's run folder, which this one leaves alone."""

    update_status = write_membership = write_bytes = write_picture = lock = discard = unlock = nothing

    def status_or_empty(self) -> dict[str, Any]:
        return {}


class SilentLog(RunLog):
    """No numbers."""

    offset = 0
    tensorboard: Any = None
    __init__ = scalars = layers = flush = close = nothing


class SilentBoard(Board):
    """No pictures, nor anything else for TensorBoard."""

    __init__ = opening = hparams = nothing


class SilentScreen(Screen):
    """No bar and no lines."""

    __init__ = note = step = clear = epoch = nothing


class SilentSaver(CheckpointSaver):
    """No checkpoints."""

    save = save_best = nothing

    def __init__(self) -> None:
        super().__init__(Path(), 0)
