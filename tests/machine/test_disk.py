"""Reading files cold and warm, and saying so where cold cannot be had."""

import os
import tempfile
from pathlib import Path

import pytest

from mlcli.errors import DataError
from mlcli.machine.bench.disk import file_system, read_cold, read_files, shared_memory_bytes


def files(folder: Path, count: int = 40, size: int = 5000) -> list[str]:
    paths = [folder / f"{number}.bin" for number in range(count)]
    for path in paths:
        path.write_bytes(bytes(size))
    os.sync()  # pages not yet on the disk cannot be dropped
    return list(map(str, paths))


def test_warm(tmp_path):
    timing, size = read_files(files(tmp_path), budget_s=1.0)
    assert size == 5000
    assert timing.laps == 3  # 16 + 16 + 8 files
    assert timing.seconds > 0


def test_reading_stops_when_the_time_is_over(tmp_path):
    timing, _ = read_files(files(tmp_path), budget_s=0.0)
    assert timing.laps == 1


def test_cold_is_measured_or_said_to_be_impossible(tmp_path):
    timing, note = read_cold(files(tmp_path), budget_s=1.0)
    assert timing is not None or note.startswith("not measured: ")


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a memory file system")
def test_a_memory_file_system_has_no_cold():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        timing, note = read_cold(files(Path(folder), count=10), budget_s=1.0)
    assert timing is None
    assert "the files lie in memory" in note


def test_a_missing_file_is_named(tmp_path):
    paths = files(tmp_path, count=20)
    os.unlink(paths[17])
    with pytest.raises(DataError) as error:
        read_files(paths, budget_s=1.0)
    assert error.value.where == paths[17]


def test_what_the_system_says(tmp_path):
    assert " on " in file_system(str(tmp_path))
    assert shared_memory_bytes() is None or shared_memory_bytes() > 0


def test_a_refusal_to_drop_the_page_cache_is_said(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"1")

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    monkeypatch.setattr("mlcli.machine.bench.disk.file_system", lambda _: "ext4 on /dev/disk")
    timing, note = read_cold([str(path)], 1.0)
    assert timing is None
    assert "could not be dropped (Operation not permitted)" in note
