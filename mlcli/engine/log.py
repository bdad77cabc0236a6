"""Logging of a run's numbers: metrics.jsonl, TensorBoard, the progress bar and one line per epoch."""

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.engine.documents import TRAIN_MEASURED, Entry, LayerLook, read_entries
from mlcli.engine.evaluate import as_json
from mlcli.engine.layer_stats import LayerStats
from mlcli.engine.meter import Rates, TimeLeft
from mlcli.engine.run import EVENT_FOLDERS, RunFolder
from mlcli.files import Journal, cannot_write, write_atomically
from mlcli.show.terminal import bar, paint
from mlcli.text import ABSENT, duration, paragraphs, screen_width, visible

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm


class RunLog:
    """Writes each (split, step) once, also after a run was killed and resumed.

    Args:
        run: the folder to write to.
        offset: length in bytes of metrics.jsonl at the checkpoint resumed from; what came later is cut off.
        step: optimizer step resumed from; TensorBoard forgets what came later.
    """

    def __init__(self, run: RunFolder, offset: int, step: int) -> None:
        self.path, self._layers_path = run.path / "metrics.jsonl", run.path / "layers.jsonl"
        if self._layers_path.exists():  # a resumed run sees later steps again
            kept = [look for look in read_entries(self._layers_path, LayerLook) if look["step"] <= step]
            write_atomically(self._layers_path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._metrics = Journal(self.path, offset)
        self._layers: Journal | None = None  # few runs look at none
        threading.excepthook = _unless_said_anyway
        older = run.path / "tensorboard"  # where 0.1.0 had the events of all splits
        if older.is_dir() and not (run.path / "train").exists():
            older.rename(run.path / "train")
        # Always: TensorBoard's Python server takes the first purge it sees for the run's beginning, and ignores it.
        self._purge_step = step + 1 if step else 0
        self._run = run.path
        self._writers: dict[str, SummaryWriter] = {}
        self.tensorboard = self._writer("train")  # before the first step, not within it: its import costs a second
        for split in EVENT_FOLDERS:
            if (run.path / split).is_dir():
                self._writer(split)  # what came later is forgotten now, whether or not this start writes to it

    def scalars(
        self, split: str, step: int, epoch: int, values: dict[str, float], *, shown_at: int | None = None
    ) -> None:
        """One line in metrics.jsonl and one point per value in TensorBoard, where each split has a folder of its own.

        shown_at: the step they stand at in TensorBoard, `step` unless given; one after the last is forgotten when the
            run goes on.
        JSON has no NaN or infinity; such values are written as null.
        """
        entry = {"split": split, "step": step, "epoch": epoch, **as_json(values), "time": round(time.time(), 3)}
        self._metrics.write(json.dumps(entry))
        for name, value in values.items():
            self._writer("train" if split == TRAIN_MEASURED else split).add_scalar(
                visible(name, one_line=True), value, step if shown_at is None else shown_at
            )

    def layers(self, stats: LayerStats) -> None:
        """One line in layers.jsonl; what is wrong also as text in TensorBoard."""
        self._layers = self._layers or Journal(self._layers_path)
        self._layers.write(json.dumps(stats.to_plain()))
        for text in stats.notes:
            self.tensorboard.add_text("notes", visible(text), stats.step)

    def flush(self) -> None:
        """Have all curves in their files: after a kill, a checkpoint must not be ahead of them."""
        for writer in self._writers.values():
            writer.flush()

    @property
    def offset(self) -> int:
        """Length of metrics.jsonl in bytes."""
        return self._metrics.length

    def close(self) -> None:
        """Raises OutputError if the last of it cannot be written."""
        self._metrics.close()
        if self._layers:
            self._layers.close()
        for writer in self._writers.values():
            try:
                writer.close()
            except OSError as error:
                raise cannot_write(Path(writer.log_dir), error) from error

    def _writer(self, split: str) -> "SummaryWriter":
        """TensorBoard takes each folder for a run and draws a tag of several runs in one chart: train beside val."""
        if split not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[split] = SummaryWriter(str(self._run / split), purge_step=self._purge_step)
        return self._writers[split]


def _unless_said_anyway(failed: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread dies of a file error with a traceback; but the next call to its writer raises that error."""
    of_tensorboard = type(failed.thread).__module__.startswith("tensorboard.")
    if not (of_tensorboard and isinstance(failed.exc_value, OSError)):
        threading.__excepthook__(failed)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl (see `documents.Entry`); a last line cut short by a crash is left out."""
    return read_entries(path, Entry)


class Screen:
    """Progress display of a run: a bar in a terminal, and one plain line per epoch everywhere."""

    DROPPED = ("lr", "samples/s", "wait", "train metric", "left", "train loss")
    """Columns left out one after another where a screen is narrow."""
    BEST = "  * best"

    def __init__(self, steps_per_epoch: int, metric: str, epochs: int = 0) -> None:
        self.steps_per_epoch, self.metric, self.epochs = steps_per_epoch, metric, epochs
        self.left = TimeLeft(epochs, steps_per_epoch)
        self._bar: tqdm[Any] | None = None
        self._columns: dict[str, int] = {}
        """Titles and widths; chosen at the first line."""
        self._noted: set[str] = set()

    def note(self, text: str) -> None:
        """Warn of something; the same, apart from figures in parentheses, is said once only."""
        kind = text.partition(" (")[0]
        if kind not in self._noted:
            self._noted.add(kind)
            self.clear()
            print(paint(paragraphs([("warning", text)], 11), "yellow"), flush=True)

    def step(self, epoch: int, done: int) -> None:
        """One optimizer step of `epoch` (from 0) is done; `done` of the epoch's steps so far."""
        self.left.step(epoch, done)
        if self._bar is None:
            self._bar = bar(f"epoch {epoch + 1}/{self.epochs}", self.steps_per_epoch, "step")
            self._bar.update(done - 1)
        with contextlib.suppress(OSError):  # the terminal was closed
            if not self._bar.disable and (left_s := self.left.seconds()) is not None:
                self._bar.set_postfix_str(f"{duration(left_s)} left in all", refresh=False)
            self._bar.update()

    def clear(self) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()
            self._bar = None

    def epoch(self, epoch: int, scores: dict[str, dict[str, float]], lr: float, rates: Rates, best: bool) -> None:
        """The line of an epoch (from 0). `scores` by split; a missing split leaves its column out."""
        self.clear()
        self.left.epoch(epoch)
        cells = {"epoch": f"{epoch + 1}"}
        for split, values in scores.items():
            for name in ("loss", self.metric):
                if name in values:  # four decimals as long as that is a number to be read: one format for all lines
                    form = ".4f" if abs(values[name]) < 10_000 else ".4g"
                    cells[f"{split} {name}"] = f"{values[name]:{form}}"
        cells |= {"lr": f"{lr:.2e}", "samples/s": f"{rates.samples_per_s:,.0f}", "wait": f"{rates.wait_share:.0%}"}
        left_s = self.left.seconds()
        cells["left"] = ABSENT if left_s is None else duration(left_s)
        if not self._columns:
            self._columns = {title: max(len(title), len(text), 6) + 2 for title, text in cells.items()}
            for title in self.DROPPED:
                if sum(self._columns.values()) + len(self.BEST) > screen_width():
                    self._columns.pop(title.replace("metric", self.metric), None)
            print("\n" + paint("".join(title.rjust(width) for title, width in self._columns.items()), "bold"))
        row = "".join(cells.get(title, ABSENT).rjust(width) for title, width in self._columns.items())
        print(row + (paint(self.BEST, "green") if best else ""), flush=True)
