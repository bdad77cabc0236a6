"""`mlcli predict` on videos and animations, on a picture from standard input, and on quoted patterns."""

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from mlcli import load
from mlcli.commands import predict
from mlcli.commands.predict import Wanted
from mlcli.data import video
from mlcli.errors import ConfigError, DataError, ExitCode
from mlcli.tasks.answers import NOT_FINITE
from mlcli.tasks.classification.answers import ClassAnswers

av = pytest.importorskip("av")


def picture(number: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
    """A grey picture whose brightness says which it is."""
    return Image.new("RGB", size, (20 * number,) * 3)


def write_video(path: Path, count: int = 20, rate: int = 10) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx" if path.suffix == ".webm" else "mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(count):
            container.mux(stream.encode(av.VideoFrame.from_image(picture(number % 12))))
        container.mux(stream.encode(None))
    return path


def write_animation(path: Path) -> Path:
    first, *others = [picture(number) for number in (1, 5, 9)]
    first.save(path, save_all=True, append_images=others, duration=[200, 300, 400], lossless=True)
    return path


def records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.webm"])
def test_every_frame_of_a_video_comes_once(name, tmp_path):
    found = [*video.frames(write_video(tmp_path / name))]
    assert [frame.number for frame in found] == [*range(20)]
    assert [frame.seconds for frame in found] == pytest.approx([number / 10 for number in range(20)], abs=0.002)
    assert [round(np.asarray(frame.image).mean() / 20) for frame in found] == [number % 12 for number in range(20)]


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_every_frame_of_an_animation_comes_once(name, tmp_path):
    path = write_animation(tmp_path / name)
    assert video.is_moving(path)
    assert [(frame.number, frame.seconds, frame.lasts) for frame in video.frames(path)] == [
        (0, 0.0, 0.2), (1, 0.2, 0.3), (2, 0.5, 0.4)
    ]  # fmt: skip
    picture(3).save(tmp_path / f"still{path.suffix}")
    assert not video.is_moving(tmp_path / f"still{path.suffix}")


def test_a_video_is_answered_frame_by_frame_and_drawn(runs_root, tmp_path, capsys):
    path = write_video(tmp_path / "a.mp4")
    assert predict.run("digits", [path], Wanted(top=1), root=runs_root) == ExitCode.OK
    screen = capsys.readouterr()
    assert "20 frames answered" in screen.err
    lines = records(screen.out)
    assert [(line["frame"], line["seconds"]) for line in lines[:2]] == [(0, 0.0), (1, 0.1)]
    assert {line["input"] for line in lines} == {str(path)}
    for frame in list(video.frames(path))[:3]:
        frame.image.save(tmp_path / f"{frame.number}.png")
    predict.run("digits", [tmp_path / f"{number}.png" for number in range(3)], Wanted(top=1), root=runs_root)
    for line, alone in zip(lines, records(capsys.readouterr().out), strict=False):
        assert (line["label"], line["probabilities"]) == (alone["label"], alone["probabilities"])
    assert load("digits", root=runs_root).predict(path, top=1) == lines
    predict.run("digits", [path], output=tmp_path / "a.jsonl", pictures=tmp_path / "shown", root=runs_root)
    assert len(records((tmp_path / "a.jsonl").read_text())) == 20
    drawn = [*video.frames(tmp_path / "shown" / "a.mp4")]
    assert len(drawn) == 20
    assert drawn[-1].seconds == pytest.approx(1.9, abs=0.01)
    assert drawn[0].image.height > 32
    left = [np.asarray(frame.image)[: frame.image.width // 2, :4].mean() / 20 for frame in drawn]
    assert [round(value) for value in left] == [number % 12 for number in range(20)]
    assert [each.name for each in (tmp_path / "shown").iterdir()] == ["a.mp4"]


def test_what_is_to_be_known_of_the_answers_is_said_of_frames_as_well(runs_root, tmp_path, capsys):
    predict.run("perceptron", [write_animation(tmp_path / "a.gif")], root=runs_root)
    assert "the hinge loss defines no probabilities" in capsys.readouterr().err


def test_an_animation_is_drawn_as_one(runs_root, tmp_path, capsys):
    for name in ("a.gif", "b.webp"):
        path = write_animation(tmp_path / name)
        found = load("digits", root=runs_root).predict(path)
        assert [(each["frame"], each["seconds"]) for each in found] == [(0, 0.0), (1, 0.2), (2, 0.5)]
        predict.run("digits", [path], output=tmp_path / f"drawn-{path.stem}.gif", root=runs_root)
        assert "3 frames answered" in capsys.readouterr().out
        with Image.open(tmp_path / f"drawn-{path.stem}.gif") as image:
            assert [frame.info["duration"] for frame in ImageSequence.Iterator(image)] == [200, 300, 400]
            assert image.height > 32
            assert [np.asarray(frame.convert("L"))[5, 5] // 20 for frame in ImageSequence.Iterator(image)] == [1, 5, 9]


CORNERS = np.zeros((32, 48, 3), dtype=np.uint8)
CORNERS[:16, :24], CORNERS[:16, 24:], CORNERS[16:, :24] = 240, 160, 80


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ([0, 1, -1, 0], np.rot90(CORNERS, -1)),  # as of a phone held upright
        ([0, -1, 1, 0], np.rot90(CORNERS)),
        ([-1, 0, 0, -1], np.rot90(CORNERS, 2)),
        ([-1, 0, 0, 1], CORNERS[:, ::-1]),
        ([0, 1, 1, 0], CORNERS.transpose(1, 0, 2)),
    ],
    ids=["clockwise", "counterclockwise", "upside down", "mirrored", "both"],
)
def test_a_video_is_answered_and_drawn_as_it_is_shown(matrix, upright, runs_root, tmp_path):
    a, b, c, d = (65536 * number for number in matrix)
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        container.mux(stream.encode(av.VideoFrame.from_image(Image.fromarray(CORNERS))))
        container.mux(stream.encode(None))
    (frame,) = video.frames(tmp_path / "a.mp4")
    assert frame.image.size == upright.shape[1::-1]
    assert np.abs(np.asarray(frame.image).astype(int) - upright).mean() < 8
    run = load("digits", root=runs_root)
    (of_video,), (of_picture,) = run.predict(tmp_path / "a.mp4"), run.predict(frame.image)
    assert of_video["probabilities"] == of_picture["probabilities"]
    frame.image.save(tmp_path / "still.png")
    for name in ("a.mp4", "still.png"):
        predict.run("digits", [tmp_path / name], pictures=tmp_path / "shown", root=runs_root)
    (drawn,), (still,) = video.frames(tmp_path / "shown/a.mp4"), (tmp_path / "shown").glob("*.png")
    shown, wanted = (np.asarray(each.convert("RGB")).astype(int) for each in (drawn.image, Image.open(still)))
    assert np.abs(shown[: len(wanted), : wanted.shape[1]] - wanted).mean() < 8


def test_a_frame_without_an_answer_ends_as_a_picture_without_one(runs_root, mlcli, tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", count=10)
    real = ClassAnswers.plain

    def not_finite(answers, predictions, top=None):
        return [{"error": NOT_FINITE}, *real(answers, predictions[1:], top)]

    monkeypatch.setattr(ClassAnswers, "plain", not_finite)
    typed = mlcli("predict", "digits", path, "--out", runs_root, "-o", "a.jsonl")
    assert typed.code == ExitCode.DATA
    assert "2 of 10 frames could not be answered" in typed.err
    assert "a.mp4, frame 0: the model's answer is not finite" in typed.err
    assert "8 frames answered: a.jsonl" in typed.out
    lines = records((tmp_path / "a.jsonl").read_text())
    assert [line["frame"] for line in lines if "error" in line] == [0, 8]


def test_what_comes_before_damage_is_kept(runs_root, tmp_path, monkeypatch):
    whole = write_video(tmp_path / "a.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    with contextlib.suppress(DataError):  # a stream that just stops is the end of it, for some containers
        predict.run("digits", [tmp_path / "cut.mkv"], output=tmp_path / "a.jsonl", root=runs_root)
    assert 5 < len(records((tmp_path / "a.jsonl").read_text())) < 20

    def breaks(path: Path):
        yield video.Frame(0, 0.0, 0.1, picture(3))
        raise DataError("cannot read on from frame 1")

    with monkeypatch.context() as patch:
        patch.setattr(video, "frames", breaks)
        with pytest.raises(DataError, match="from frame 1"):
            predict.run("digits", [tmp_path / "a.mkv"], output=tmp_path / "b.mkv", root=runs_root)
        answered, unread = load("digits", root=runs_root).predict(tmp_path / "a.mkv")
    assert (answered["frame"], unread) == (
        0, {"input": str(tmp_path / "a.mkv"), "frame": 1, "error": "cannot read on from frame 1"}
    )  # fmt: skip
    assert len([*video.frames(tmp_path / "b.mkv")]) == 1
    write_animation(tmp_path / "a.gif")
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(content[:-40])
    with pytest.raises(DataError, match="frame"):
        predict.run("digits", [tmp_path / "cut.gif"], root=runs_root)


@pytest.mark.parametrize("content", [b"", b"no video", b"#EXTM3U\n/etc/passwd\n"])
def test_what_is_no_video_is_refused(content, tmp_path):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(DataError, match="cannot read it"):
        [*video.frames(tmp_path / "a.mp4")]


def test_what_makes_no_sense_for_a_video(runs_root, tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", count=2)
    for words, said in [
        ({"output": tmp_path / "a.csv"}, "cannot tell the format"),
        ({"output": path}, "would be replaced"),
        ({"pictures": tmp_path}, "would be replaced"),
        ({"explain": True}, "not for the frames of a video"),
    ]:
        with pytest.raises(ConfigError, match=said):
            predict.run("digits", [path], root=runs_root, **words)
    with pytest.raises(ConfigError, match="asked about alone"):
        predict.run("digits", [path, path], root=runs_root)
    with pytest.raises(DataError, match="no such file"):
        predict.run("digits", [tmp_path / "b.mp4"], root=runs_root)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match="PyAV") as raised:
        predict.run("digits", [path], root=runs_root)
    assert "pip install 'mlcli[video]'" in str(raised.value)


class Stdin(io.TextIOWrapper):
    def isatty(self) -> bool:
        return False


def test_a_picture_from_standard_input(runs_root, mlcli, tmp_path, monkeypatch):
    picture(3).save(tmp_path / "three.png")
    (alone,) = records(mlcli("predict", "digits", "three.png", "--out", runs_root).out)
    monkeypatch.setattr(sys, "stdin", Stdin(io.BytesIO((tmp_path / "three.png").read_bytes())))
    (piped,) = records(mlcli("predict", "digits", "-", "--out", runs_root).out)
    assert piped == alone | {"input": "-"}
    assert "asked about alone" in mlcli("predict", "digits", "-", "three.png", "--out", runs_root).err
    monkeypatch.setattr(sys, "stdin", Stdin(io.BytesIO(b"no picture")))
    typed = mlcli("predict", "digits", "-", "--out", runs_root)
    assert (typed.code, records(typed.out)[0]["input"]) == (ExitCode.DATA, "-")


def test_a_quoted_pattern_is_the_files_it_matches(runs_root, mlcli, tmp_path):
    for name in ("b.png", "a.png", "a[1].png", "c.jpg"):
        picture(3).save(tmp_path / name)
    typed = mlcli("predict", "digits", "?.png", "a[1].png", "--out", runs_root)
    assert [record["input"] for record in records(typed.out)] == ["a.png", "b.png", "a[1].png"]
    typed = mlcli("predict", "digits", "*.bmp", "--out", runs_root)
    assert (typed.code, "no file is matched" in typed.err) == (ExitCode.DATA, True)
