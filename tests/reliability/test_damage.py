"""Damage on disk is found, all of it: 500 checkpoints with flipped bits, cut short, emptied or taken away."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mlcli.engine.checkpoint import TRAILER_BYTES, by_age, load_checkpoint, load_newest, verify
from mlcli.engine.run import list_runs
from mlcli.errors import CheckpointError
from tests.engine.rig import train
from tests.reliability.runs import DIGITS, toy_settings, toy_task, type_train
from tests.reliability.soak import soaked
from tests.reliability.trials import in_child

Damage = Callable[[bytes, random.Random], bytes | None]


def flipped_bit(good: bytes, dice: random.Random) -> bytes:
    bad = bytearray(good)
    bad[dice.randrange(len(bad))] ^= 1 << dice.randrange(8)
    return bytes(bad)


def flipped_in_trailer(good: bytes, dice: random.Random) -> bytes:
    return good[:-TRAILER_BYTES] + flipped_bit(good[-TRAILER_BYTES:], dice)


def cut_short(good: bytes, dice: random.Random) -> bytes:
    return good[: dice.randrange(1, len(good))]


def with_a_hole(good: bytes, dice: random.Random) -> bytes:
    """A page of zeros, as after a loss of power where nobody waited for the disk."""
    start = dice.randrange(0, len(good) - 512)
    return good[:start] + bytes(512) + good[start + 512 :]


def grown(good: bytes, dice: random.Random) -> bytes:
    return good + dice.randbytes(dice.randrange(1, 100))


def emptied(good: bytes, dice: random.Random) -> bytes:
    return b""


def missing(good: bytes, dice: random.Random) -> None:
    return None


KINDS = [(flipped_bit, 250), (flipped_in_trailer, 50), (cut_short, 100), (with_a_hole, 50), (grown, 48), (emptied, 1),
         (missing, 1)]  # fmt: skip


def test_there_are_500():
    assert sum(count for _, count in KINDS) == 500


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The checkpoints of a training: two numbered ones and the best."""
    t, _ = train(tmp_path_factory.mktemp("trained"), toy_task(), toy_settings())
    return t.run.checkpoints


@pytest.mark.parametrize(("damage", "count"), KINDS, ids=lambda kind: getattr(kind, "__name__", ""))
def test_damage_is_found_and_the_newest_good_one_is_taken(trained, damage, count):
    newest, good = by_age(trained)
    content = newest.read_bytes()
    for number in range(soaked(count)):
        bad = damage(content, random.Random(f"{damage.__name__} {number}"))
        if bad == content:  # a hole where zeros were
            continue
        try:
            newest.unlink() if bad is None else newest.write_bytes(bad)
            for read in (load_checkpoint, verify):
                with pytest.raises(CheckpointError) as caught:
                    read(newest)
                assert str(newest) in str(caught.value)
            _, taken, problems = load_newest(trained)
            assert (taken, list(problems)) == (good, [newest] if bad is not None else []), number
        finally:
            newest.write_bytes(content)


def test_any_damage_to_the_only_good_one_is_said_of_each(trained, tmp_path):
    for path in by_age(trained):
        (tmp_path / path.name).write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError) as caught:
        load_newest(tmp_path)
    assert all(path.name in str(caught.value) for path in by_age(trained))


def test_a_typed_resume_names_the_bad_one_and_puts_it_aside(arena):
    """And what is kept from then on are good ones: the bad one, newest by its number, does not count among them."""
    (arena / "digits.yaml").write_text(DIGITS)
    assert in_child(type_train, arena).code == 0
    (run,) = list_runs(arena / "runs")
    newest, good = by_age(run.checkpoints)
    newest.write_bytes(flipped_bit(newest.read_bytes(), random.Random(0)))
    run.update_status(state="running")  # as kill -9 would have left it
    ended = in_child(type_train, arena)
    assert ended.code == 0, ended
    assert f"warning    {newest.name}: the checkpoint is damaged" in ended.out
    assert f"resuming from {good.name}" in ended.out
    assert newest.with_suffix(".damaged").exists()
    assert by_age(run.checkpoints) == [newest, good]
    assert [verify(path) for path in by_age(run.checkpoints)] == [None, None]
