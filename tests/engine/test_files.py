"""Files are whole or as they were, logs end in a whole line, and what the killed left behind is cleared away."""

import os
import subprocess
import sys

import pytest

from mlcli import files
from mlcli.errors import OutputError
from mlcli.files import Journal, claim_folder, fill_atomically, make_folder, remove, sweep, write_atomically


def test_what_a_check_refuses_does_not_take_the_place_of_the_old(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def refuse(written):
        assert written.read_bytes() == b"new"
        raise OutputError("not as it was written")

    with pytest.raises(OutputError, match="not as it was written"):
        fill_atomically(path, lambda write: write(b"new"), refuse)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_write_leaves_nothing(tmp_path, interrupt):
    def stop(write):
        write(b"half")
        raise interrupt

    with pytest.raises(interrupt):
        fill_atomically(tmp_path / "a", stop)
    assert os.listdir(tmp_path) == []


def test_a_write_taken_in_bits_is_written_to_its_end(tmp_path, monkeypatch):
    def three_bytes_at_most(operation, *arguments):
        if operation is os.write:
            descriptor, part = arguments
            return os.write(descriptor, part[:3])
        return operation(*arguments)

    monkeypatch.setattr(files, "perform", three_bytes_at_most)
    write_atomically(tmp_path / "a", bytes(range(100)))
    assert (tmp_path / "a").read_bytes() == bytes(range(100))


@pytest.mark.parametrize(
    ("before", "length", "kept"),
    [
        ("", 0, ""),
        ("1\n2\n3\n", 4, "1\n2\n"),
        ("1\n2\n3\n", None, "1\n2\n3\n"),
        ("1\n2\n3", None, "1\n2\n"),
        ("1\n2", 10, "1\n"),
    ],
    ids=["new", "cut back", "gone on with", "half a line", "shorter than it was"],
)
def test_a_journal_goes_on_after_a_whole_line(tmp_path, before, length, kept):
    path = tmp_path / "metrics.jsonl"
    path.write_text(before)
    journal = Journal(path, length)
    assert journal.length == len(kept)
    journal.write("é")
    assert journal.length == path.stat().st_size
    journal.close()
    journal.close()
    assert path.read_text() == kept + "é\n"


def test_temporary_files_of_dead_processes_are_swept_and_those_of_living_ones_are_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        names = {pid: f".status.json.{pid}.tmp" for pid in (dead.pid, living.pid, os.getpid())}
        for name in (*names.values(), "kept.tmp", ".kept"):
            (tmp_path / name).touch()
        sweep(tmp_path, only_writer=False)
        assert sorted(os.listdir(tmp_path)) == sorted([names[living.pid], "kept.tmp", ".kept"])
        sweep(tmp_path, only_writer=True)
        assert sorted(os.listdir(tmp_path)) == [".kept", "kept.tmp"]
        living.communicate(b"\n")


def test_folders_are_made_once_and_claimed_once(tmp_path):
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    claim_folder(tmp_path / "a" / "d")
    with pytest.raises(FileExistsError):
        claim_folder(tmp_path / "a" / "d")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        make_folder(tmp_path / "file" / "below")


def test_what_cannot_be_deleted_is_said(tmp_path):
    remove(tmp_path / "not there")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot delete") as caught:
        remove(tmp_path / "folder")
    assert caught.value.where == str(tmp_path / "folder")
