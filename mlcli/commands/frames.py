"""`mlcli predict` of a video or an animation: frame by frame, a few of them in memory at once."""

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.commands.common import refuse_failed, refuse_input, show_progress
from mlcli.engine.predicting import Answers, DrawsAnswers, Record
from mlcli.errors import ConfigError, DataError, ExitCode
from mlcli.text import plural

if TYPE_CHECKING:
    from mlcli.data.video import Frame

FRAMES = 8
"""That are in memory at once."""


def video_among(inputs: Sequence[Path], options: Mapping[str, Any]) -> Path | None:
    """The video or animation that is asked about; None for other inputs. An animation among others is its first frame.

    options: those that make no sense for a video. Raises ConfigError, DataError.
    """
    from mlcli.data.video import VIDEOS, is_moving

    if len(inputs) > 1:
        if moving := [path for path in inputs if path.suffix.lower() in VIDEOS]:
            raise ConfigError("a video is asked about alone", where=str(moving[0]), fix="leave the other files out")
        return None
    if not inputs or not is_moving(inputs[0]):
        return None
    if not inputs[0].exists():
        raise DataError(f"no such file or folder: {inputs[0]}", fix="check the spelling")
    for option, value in options.items():
        if value:
            raise ConfigError(
                "this is for pictures, and not for the frames of a video", where=option, fix="leave it out"
            )
    return inputs[0]


def answer_frames(
    video: Path,
    of_pictures: Callable[[Sequence[Path]], Iterator[Record]],
    predictor: Answers,
    output: Path | None,
    pictures: Path | None,
) -> ExitCode:
    """Answer a video frame by frame: a JSON line each, and a video with the answers drawn where one is asked for.

    Raises DataError, after everything was written, if a frame could not be answered.
    """
    from mlcli.data.video import DRAWN
    from mlcli.files import write_output
    from mlcli.outputs import make_output_folder

    ending = DRAWN.get(video.suffix.lower(), video.suffix.lower())
    drawn = None if pictures is None else pictures / f"{video.stem}{ending}"
    if output is not None and output.suffix.lower() != ".jsonl":
        if output.suffix.lower() != ending:
            fix = f"end its name in .jsonl for the answers, or in {ending} for a video of them"
            raise ConfigError(f"cannot tell the format of {output}", where="--output", fix=fix)
        drawn, output = output, None
    drawing: tuple[Path, DrawsAnswers] | None = None
    if drawn is not None:
        if not isinstance(predictor, DrawsAnswers):
            raise ConfigError("the answers of this model cannot be drawn", where="--pictures", fix="leave it out")
        drawing = drawn, predictor
        refuse_input("--pictures", drawn, [video])
        make_output_folder(drawn.parent, marked=False)
    lines, count, failed = list[str](), 0, list[dict[str, Any]]()
    try:
        with contextlib.closing(frame_records(video, of_pictures, drawing)) as records:
            for count, record in enumerate(records, start=1):
                line = json.dumps(record, ensure_ascii=False)
                if "error" in record:
                    failed.append(record)
                if output is not None:
                    lines.append(f"{line}\n")
                elif drawn is None:
                    print(line)
                show_progress(f"frame {count:,}")
    finally:
        show_progress("")
        if lines and output is not None:
            write_output(output, "".join(lines).encode())
    where = ", ".join(str(path) for path in (output, drawn) if path is not None)
    said = f"{plural(count - len(failed), 'frame')} answered" + (f": {where}" if where else "")
    for line in filter(None, (said, predictor.caveat)):
        print(line, file=sys.stdout if where else sys.stderr)
    refuse_failed(failed, count, "frames")
    return ExitCode.OK


def frame_records(
    video: Path,
    of_pictures: Callable[[Sequence[Path]], Iterator[Record]],
    drawing: tuple[Path, DrawsAnswers] | None = None,
) -> Generator[Record]:
    """Return a record for each frame: input, frame (from 0), seconds, and what `of_pictures` says of it.

    A video that cannot be read on ends with a record that has `error`. drawing: a video to write with the answers
    drawn, and the predictor that draws them. Raises ConfigError without PyAV, OutputError.
    """
    from mlcli.data.video import frames, writing

    fault, count = list[DataError](), 0
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        writer = stack.enter_context(writing(drawing[0])) if drawing else None
        for batch in _batches(frames(video), fault):
            paths = [folder / f"{number}.png" for number in range(len(batch))]
            for frame, path in zip(batch, paths, strict=True):
                frame.image.save(path, compress_level=1)
            for frame, path, record in zip(batch, paths, of_pictures(paths), strict=True):
                if writer is not None and drawing is not None:
                    writer.add(frame.image if "error" in record else drawing[1].picture(path, record), frame)
                place = {"input": str(video), "frame": frame.number, "seconds": round(frame.seconds, 3)}
                yield place | record | {"input": str(video)}
                count = frame.number + 1
    for error in fault:
        yield {"input": str(video), "frame": count, "error": error.what}


def _batches(source: "Iterator[Frame]", fault: list[DataError]) -> "Iterator[list[Frame]]":
    """Return the frames, a few at once. At one that cannot be read they end, and the error is put into `fault`."""
    batch: list[Frame] = []
    try:
        for frame in source:
            batch.append(frame)
            if len(batch) == FRAMES:
                yield batch
                batch = []
    except DataError as error:  # the frames before it are answered first
        fault.append(error)
    if batch:
        yield batch
