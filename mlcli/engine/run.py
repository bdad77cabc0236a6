"""The run folder: atomic creation, one writer at a time, status. No torch in here: listing runs needs none."""

import contextlib
import csv
import gzip
import io
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.engine import lock
from mlcli.engine.documents import Environment, Status, read_document
from mlcli.engine.membership import Membership
from mlcli.errors import CheckpointError, ConfigError, OutputError, UserError
from mlcli.files import cannot_write, claim_folder, make_folder, refuse_links, sweep_temporaries, write_atomically
from mlcli.outputs import make_output_folder, png
from mlcli.reading import read_file
from mlcli.schema.explain import closest
from mlcli.schema.read import read
from mlcli.text import as_text, csv_cell

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_MEMBERSHIP_BYTES = 2**32
"""Of splits.safetensors: 128 million files."""
MOST_LINES = 100_000
"""Samples up to which splits.csv is not compressed."""
EVENT_FOLDERS = ("train", "val", "test")
"""One of each split, with TensorBoard's files: a run of its own there, whose curves stand in the other's charts."""
STAMP = "%Y%m%d-%H%M%S"
RUN_NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


class RunFolder:
    """One run's folder: `<root>/<name>/<UTC time>-<suffix>/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"

    @property
    def name(self) -> str:
        """`<name>/<UTC time>-<suffix>`, which `open_run` finds again."""
        return as_text(f"{self.path.parent.name}/{self.path.name}")

    def config_plain(self) -> dict[str, Any]:
        """The resolved config the run was started with. Raises CheckpointError if the run has none that can be read."""
        try:
            return read(self.path / "resolved.yaml").tree.data
        except ConfigError as error:
            raise CheckpointError(f"the run's config cannot be read: {error.what}", where=str(self.path)) from error

    def status(self) -> dict[str, Any]:
        """status.json (see `documents.Status`); with state "killed" if it says running but no process holds its lock.

        Raises CheckpointError.
        """
        status = read_document(self.path / "status.json", Status)
        if status["state"] == "running" and not self.is_held():
            status["state"] = "killed"
        return status

    def status_or_empty(self) -> dict[str, Any]:
        """The status as written; nothing for a run that was just made."""
        path = self.path / "status.json"
        return read_document(path, Status) if path.exists() else {}

    def environment_or_empty(self) -> dict[str, Any]:
        """Hardware and software of the run, as written; empty if that cannot be read."""
        with contextlib.suppress(CheckpointError):
            return read_document(self.path / "environment.json", Environment)
        return {}

    def membership(self) -> Membership | None:
        """Which samples were in which split; None of a run whose version, or task, did not keep it. Raises
        CheckpointError if it cannot be read."""
        path = self.path / "splits.safetensors"
        if not path.exists():
            return None
        try:
            return Membership.from_bytes(read_file(path, MOST_MEMBERSHIP_BYTES))
        except (OSError, CheckpointError) as error:
            raise CheckpointError(f"the list of splits cannot be read: {error}", where=str(path)) from error

    def write_membership(self, membership: Membership) -> None:
        """splits.safetensors, which `membership` reads, and splits.csv for other tools: sample, split.

        The latter is compressed (splits.csv.gz) where there are more than `MOST_LINES`.
        """
        write_atomically(self.path / "splits.safetensors", membership.to_bytes())
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["sample", "split"])
        writer.writerows((csv_cell(name), split) for name, split in membership.rows())
        content = text.getvalue().encode(errors="backslashreplace")
        if sum(map(len, membership.splits.values())) > MOST_LINES:
            write_atomically(self.path / "splits.csv.gz", gzip.compress(content, compresslevel=1, mtime=0))
        else:
            write_atomically(self.path / "splits.csv", content)

    def update_status(self, **changes: Any) -> None:
        """Change some entries of status.json, atomically."""
        status = {**self.status_or_empty(), **changes}
        write_atomically(self.path / "status.json", json.dumps(status, indent=2).encode() + b"\n")

    def write_text(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        write_atomically(self.path / name, content)

    def write_picture(self, title: str, picture: "Image") -> None:
        """pictures/<title>.png, with hyphens for spaces."""
        folder = self.path / "pictures"
        make_folder(folder)
        write_atomically(folder / f"{title.replace(' ', '-')}.png", png(picture))

    def checkpoint(self, which: str = "best") -> Path:
        """The path of the "best" or the "last" checkpoint; the last where no best was chosen yet."""
        if which not in ("best", "last"):
            raise ConfigError(f"'{which}' is no checkpoint of a run", where="--checkpoint", fix="best or last")
        best, numbered = self.checkpoints / "best.ckpt", by_age(self.checkpoints)
        if which == "best" and best.exists():
            return best
        if not numbered:
            raise CheckpointError("the run has no checkpoint yet", where=str(self.path), fix="wait for its first epoch")
        return numbered[0]

    def lock(self) -> None:
        """Become the only writer of this run, and clear away what a killed one left half written.

        Raises BusyError, naming the other, if there is one; OutputError if the run cannot be written.
        """
        refuse_links(*(self.path / name for name in ("checkpoints", "pictures", "tensorboard", *EVENT_FOLDERS)))
        lock.take(self._lock_file, f"pid {os.getpid()} on {socket.gethostname()} since {utc_now()}")
        sweep_temporaries(self.checkpoints, only_writer=True)
        for folder in (self.path, self.path / "pictures"):  # evaluations and reports of others are written here too
            sweep_temporaries(folder, only_writer=False)

    def discard(self) -> None:
        """Remove the folder, and the one of its name if nothing else is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()

    def unlock(self) -> None:
        """Let others write; nothing happens if the lock is not ours."""
        lock.release(self._lock_file)

    def is_held(self) -> bool:
        """Whether a living process is writing it."""
        return lock.is_taken(self._lock_file)

    @property
    def _lock_file(self) -> Path:
        return self.path / "run.lock"


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_writable(root: Path, name: str = "") -> None:
    """Raise OutputError early if runs of that name cannot be written under `root`, or ConfigError.

    Leaves nothing behind, even if killed.
    """
    place = root / name
    if as_text(place) != str(place):
        fix = "choose another --name and --out"
        raise ConfigError("TensorBoard cannot write to a path that is not UTF-8 text", where=as_text(place), fix=fix)
    existing = root.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError("the output path goes through a file", where=str(existing), fix="choose another with --out")
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:  # has no name where the system knows such files
            probe.write(b"probe")
            probe.flush()
    except OSError as error:
        raise cannot_write(root, error) from error


def next_name(root: Path) -> str:
    """`<UTC time>-<suffix>`, later in the alphabet than every run below `root`: runs are ordered by their names.

    Where the clock does not come after the newest run, because it went back or is within the same second, the name
    has that run's time and the next suffix.
    """
    stamp = datetime.now(UTC).strftime(STAMP)
    newest = max((path.name for path in folders_below(root, 2) if RUN_NAME.fullmatch(path.name)), default="")
    if stamp > newest[: len(stamp)]:
        return f"{stamp}-{secrets.randbelow(0x1000):04x}"  # low, so that many may follow
    time, count = newest[: len(stamp)], int(newest[len(stamp) + 1 :], 16) + 1
    if count <= 0xFFFF:
        return f"{time}-{count:04x}"
    return f"{datetime.strptime(time, STAMP) + timedelta(seconds=1):{STAMP}}-0000"


def create_run(root: Path, name: str) -> RunFolder:
    """Make and lock a new run folder. mkdir itself is the arbiter between simultaneous starts. Raises OutputError."""
    make_output_folder(root)
    make_folder(root / name)
    while True:
        run = RunFolder((root / name / next_name(root)).absolute())
        try:
            claim_folder(run.path)
            break
        except FileExistsError:
            continue
        except OutputError:
            run.discard()
            raise
    try:
        make_folder(run.checkpoints)
        run.lock()
    except UserError:
        run.discard()
        raise
    return run


def by_age(folder: Path) -> list[Path]:
    """The numbered checkpoints of a folder, newest first."""
    numbered = [path for path in folder.glob("step-*.ckpt") if path.stem[5:].isdecimal()]
    return sorted(numbered, key=lambda path: int(path.stem[5:]), reverse=True)


def open_run(text: str | Path, root: Path = Path("runs")) -> RunFolder:
    """Find a run by its folder, by `name/time`, by `time`, by `name` (its newest run), or as `latest` of all.

    Raises CheckpointError if there is none, naming what there is.
    """
    named = [path for path in folders_below(root, 2) if path.name == str(text)]
    for candidate in (Path(text), root / text, *named):
        if _is_run(candidate):
            return RunFolder(candidate.absolute())
        # A folder of runs stands for its newest; the folder of all names, or one with runs deep below, for none.
        if runs := list(filter(_is_run, folders_below(candidate, 1))):
            return RunFolder(runs[-1].absolute())
    known = list_runs(root)
    if str(text) == "latest" and known:
        return known[-1]
    names = sorted({run.path.parent.name for run in known})
    what, fix = f"'{text}' is not a run folder", f"runs there are: {', '.join(names[:8]) or 'none yet'}"
    if Path(text).suffix in (".yaml", ".yml"):
        what = f"'{text}' is a YAML, not a run"
        fix = f"{Path(text).stem} is its newest run" if Path(text).stem in names else f"mlcli train {text} makes one"
    elif near := closest(str(text), names):
        fix = f"did you mean {near}? {fix}"
    raise CheckpointError(what, where=f"looked in . and {root}/", fix=fix)


def list_runs(root: Path) -> list[RunFolder]:
    """Every run at or below `root` (root/run or root/name/run), oldest first."""
    found = filter(_is_run, [*folders_below(root, 1), *folders_below(root, 2)])
    return [RunFolder(path.absolute()) for path in sorted(found, key=lambda p: (p.name, str(p)))]


def folders_below(root: Path, depth: int) -> list[Path]:
    """The folders that many levels below `root`, sorted; those that cannot be read have none below them."""
    above, below = [root] if depth == 1 else folders_below(root, depth - 1), []
    for folder in above:
        with contextlib.suppress(OSError):
            below += [folder / name for name in sorted(os.listdir(folder)) if os.path.isdir(folder / name)]
    return below


def _is_run(path: Path) -> bool:
    return os.path.lexists(path / "status.json")
