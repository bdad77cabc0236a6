"""Files are whole or as they were, logs end in a whole line, and what the killed left behind is cleared away."""

import itertools
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mlcli import files
from mlcli.errors import OutputError
from mlcli.files import (
    Journal,
    claim_folder,
    fill_atomically,
    make_folder,
    remove,
    sweep_temporaries,
    write_atomically,
    write_output,
)
from mlcli.reading import read_file, read_lines

IRREGULAR = ["a pipe", "a folder", "a device", "a socket"]


def bind(path: Path) -> None:
    """Make a socket there. The path of one may be 107 bytes long, so it is named relative to its folder."""
    folder = os.getcwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(folder)


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


def test_temporary_files_that_nobody_writes_are_swept_and_others_are_not(tmp_path):
    left = [".status.json.0123456789ab.tmp", ".status.json.4711.tmp"]  # 0.1.0 put its process's number there
    kept = ["kept.tmp", ".kept", ".notes.tmp", ".vimrc.swp.tmp"]
    for name in (*left, *kept):
        (tmp_path / name).touch()

    def fill(write):
        write(b"half")
        sweep_temporaries(tmp_path, only_writer=False)
        ours = set(os.listdir(tmp_path)) - {*kept}
        assert len(ours) == 1
        assert ours.pop().startswith(".a.")
        write(b" whole")

    fill_atomically(tmp_path / "a", fill)
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "a"])
    assert (tmp_path / "a").read_bytes() == b"half whole"
    (tmp_path / left[0]).touch()
    sweep_temporaries(tmp_path, only_writer=True)
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "a"])


def test_what_a_killed_writer_left_is_swept_by_the_next_one(tmp_path):
    code = f"""
import os, pathlib
from mlcli.files import fill_atomically
path = pathlib.Path({str(tmp_path)!r}) / "cache.pixels"
fill_atomically(path, lambda write: (write(b"half"), os.kill(os.getpid(), 9)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    write_atomically(tmp_path / "other", b"")
    assert os.listdir(tmp_path) == ["other"]


def test_links_in_the_way_of_a_file_are_replaced_and_lead_nowhere(tmp_path):
    (tmp_path / "thesis").write_text("mine")
    (tmp_path / "report.html").symlink_to("thesis")
    write_atomically(tmp_path / "report.html", b"a page")
    assert (tmp_path / "thesis").read_text() == "mine"
    assert (tmp_path / "report.html").read_text() == "a page"
    assert not (tmp_path / "report.html").is_symlink()


def test_a_link_of_the_name_of_a_temporary_file_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda number: "00" * number)
    (tmp_path / "thesis").write_text("mine")
    (tmp_path / f".a.{'0' * 12}.tmp").symlink_to("thesis")  # a lucky guess
    with pytest.raises(OutputError, match="cannot write"):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "thesis").read_text() == "mine"


def test_an_output_that_a_person_named_is_written_to_where_its_links_lead(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "answers.csv", tmp_path / "answers.csv"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_output(link, b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path / "there") == ["answers.csv"]
    write_output(Path(os.devnull), b"nowhere")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_an_output_that_is_a_pipe_is_written_to_where_somebody_reads_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="cannot write"):  # instead of waiting for ever
        write_output(tmp_path / "pipe", b"answers")
    with open(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        write_output(tmp_path / "pipe", b"answers")
        assert reader.read() == b"answers"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path), bind], ids=IRREGULAR)
def test_only_regular_files_are_read_and_gone_on_with(tmp_path, make):
    path = tmp_path / "metrics.jsonl"
    make(path)
    with pytest.raises(OSError, match="it is a"):
        read_file(path, 100)
    with pytest.raises(OutputError):
        Journal(path)


def test_files_beyond_a_bound_are_not_read(tmp_path):
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 2**36)
    with pytest.raises(OSError, match=r"it has 68.7 GB, 1 MB are the most"):
        read_file(path, 10**6)


def test_what_the_caller_has_opened_is_read_though_it_is_a_pipe(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, b"a: 1")
    os.close(writing)
    assert read_file(f"/dev/fd/{reading}", 100) == b"a: 1"
    os.close(reading)


def test_a_long_log_is_thinned_while_it_is_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = []
    for step in range(1, 3_001):
        lines.append(f'{{"split": "train", "step": {step}, "loss": 1}}')
        if step % 10 == 0:  # as often as not where every second line is dropped
            lines += [f'{{"split": "{split}", "step": {step}, "loss": 1, "hits": 2}}' for split in ("train", "val")]
    path.write_text("".join(f"{line}\n" for line in lines) + '{"split": "train"')
    assert [line.decode().rstrip() for line in read_lines(path)] == lines
    thinned = [json.loads(line) for line in read_lines(path, most=20)]
    assert [entry["step"] for entry in thinned] == sorted(entry["step"] for entry in thinned)
    for split, entries, first in (("train", 3, 1), ("train", 4, 10), ("val", 4, 10)):
        steps = [entry["step"] for entry in thinned if (entry["split"], len(entry)) == (split, entries)]
        assert 20 <= len(steps) <= 41
        assert (steps[0], steps[-1]) == (first, 3_000)
        gaps = [after - before for before, after in itertools.pairwise(steps)][:-1]
        assert max(gaps) == min(gaps)
    assert [json.loads(line)["step"] for line in read_lines(path, most=10**6)] == [
        json.loads(line)["step"] for line in lines
    ]


def test_of_a_log_without_a_line_end_nothing_is_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.touch()
    os.truncate(path, 2**32)
    assert read_lines(path, most=10) == []


def test_a_journal_goes_on_with_no_file_of_others(tmp_path):
    (tmp_path / "thesis").write_text("mine\n")
    (tmp_path / "link").symlink_to("thesis")
    (tmp_path / "second").hardlink_to(tmp_path / "thesis")
    for name, fix in (("link", "remove the link"), ("second", "cp -r")):
        with pytest.raises(OutputError, match=fix):
            Journal(tmp_path / name, 0)
    assert (tmp_path / "thesis").read_text() == "mine\n"


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
