"""`mlcli predict`: answers for files the model has not seen. The training data are not needed."""

import contextlib
import glob
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlcli.commands.common import find_run, is_exported, refuse_failed, refuse_input, tiles_asked
from mlcli.commands.frames import answer_frames, video_among
from mlcli.commands.records import write_records
from mlcli.engine.predicting import (
    Answers,
    DrawsAnswers,
    ExplainsAnswers,
    Inputs,
    Record,
    ScoresObjects,
    WritesDataSets,
)
from mlcli.errors import CheckpointError, ConfigError, DataError, ExitCode
from mlcli.files import write_atomically
from mlcli.outputs import make_output_folder, png
from mlcli.schema.explain import closest
from mlcli.text import first_few, plural

BATCH_SIZE = 64
FORMATS = (".jsonl", ".csv")
"""The endings of files that every predictor's answers can be written to."""


@contextlib.contextmanager
def given(inputs: Sequence[Path]) -> Iterator[tuple[list[Path], dict[str, str]]]:
    """Resolve what was typed: a quoted pattern is the files that it matches, `-` one picture from standard input.

    Yields the files, and what those are called that were not typed. Raises DataError, ConfigError.
    """
    if Path("-") not in inputs:
        found: list[Path] = []
        for path in inputs:
            matches = [path]
            if glob.has_magic(str(path)) and not path.exists():
                matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
            if not matches:
                raise DataError("no file is matched by this pattern", where=str(path), fix="check the spelling")
            found += matches
        yield found, {}
        return
    if len(inputs) > 1:
        raise ConfigError("standard input is asked about alone", where="-", fix="leave the other files out")
    if sys.stdin is None or sys.stdin.isatty():
        raise ConfigError("nothing is handed over", where="-", fix="mlcli predict RUN - < photo.jpg")

    from mlcli.data.jpeg import MOST_FILE_BYTES

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stdin"
        path.write_bytes(sys.stdin.buffer.read(MOST_FILE_BYTES))
        yield [path], {str(path): "-"}


@dataclass(frozen=True)
class Wanted:
    """How a model is to answer.

    top: how many probabilities or objects a record has, the likeliest; None for all.
    invert: swap dark and bright, as for ink on paper.
    thresholds: score by class, under "" for all others; less certain objects are left out. Where it names none, that
        which was best on the validation split.
    size: pixels of the longer side that images are brought to; None for the size of training.
    tiles, overlap: side of the tiles that images are looked at in, in their pixels, and the share of it that the next
        tile sees too, 0.2 unless given; None for whole images.
    """

    top: int | None = None
    invert: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)
    size: int | None = None
    tiles: int | None = None
    overlap: float | None = None


def run(
    run: str,
    inputs: Sequence[Path],
    wanted: Wanted = Wanted(),
    *,
    output: Path | None = None,
    pictures: Path | None = None,
    explain: bool = False,
    to: str | None = None,
    image_ids: Path | None = None,
    as_json: bool = False,
    checkpoint: str = "best",
    root: Path = Path("runs"),
    called: Mapping[str, str] | None = None,
) -> ExitCode:
    """Answer each input in one record: input, then label, probability and probabilities; or the number predicted; or
    objects, each with label, score and bbox (left, top, width, height in its pixels).

    An input that cannot be read has `error` in its record instead; the others are answered all the same.

    Args:
        run: folder or name of a run, or an exported file, which needs no torch.
        inputs: images, folders, CSV files of paths; for a model of tables, one CSV file; or one video or animation,
            with a record for each frame: input, frame (from 0), seconds, then as above.
        output: .jsonl (a record a line) or .csv file (a row for each label, number or object, behind the columns of the
            CSV file that was asked about), or one of the task's own formats, such as .json for COCO's list of results;
            written whole or not at all. None prints a table on a terminal, and JSON lines elsewhere. Of a video also
            another video, with the answers drawn.
        pictures: folder for the images, or the video, with their answers.
        explain: save each image beside a heat map of what in it decided, to `pictures` or a folder beside `output`.
        to: write the images with their objects as a data set of this format, to the new folder `output`.
        image_ids: JSON file of a COCO data set that says what the images are called by in COCO's results.
        as_json: print JSON lines on a terminal as well.
        called: names of inputs that have other names in the records.

    Raises UserError; DataError, after everything was written, if an input could not be read.
    """
    asked = {"--to": to, "--image-ids": image_ids, "--explain": explain}
    video = video_among(inputs, asked)
    if explain and pictures is None:
        pictures = output.with_name(f"{output.stem}-explained") if output else Path("explained")

    def refuse(keep: Sequence[Path | str]) -> None:
        """Raise ConfigError if what is to be written is one of the files and folders that are to be kept."""
        for option, path in (("--output", output), ("--pictures", pictures)):
            if path is not None:
                refuse_input(option, path, [*keep, *inputs])

    predictor, compute = _opened(run, root, checkpoint, wanted, explain, refuse)
    formats = [*FORMATS, *predictor.formats]
    if to is not None and output is None:
        raise ConfigError("a data set needs a folder", where="--to", fix=f"--to {to} --output labelled")
    if to is None and output is not None and output.suffix not in formats and video is None:
        fix = f"end its name in {' or '.join(formats)}"
        raise ConfigError(f"cannot tell the format of {output}", where="--output", fix=fix)
    compute = prepared(predictor, compute, wanted)
    if video is not None:

        def of_frames(paths: Sequence[Path]) -> Iterator[Record]:
            return answers(predictor, compute, predictor.inputs(paths, invert=wanted.invert), wanted)

        return answer_frames(video, of_frames, predictor, output, pictures)
    found = predictor.inputs(inputs, invert=wanted.invert)
    _refuse_unable(predictor, found, asked | {"--pictures": pictures, "-": called})
    if image_ids is not None:
        assert isinstance(predictor, WritesDataSets)
        predictor.use_image_ids(found, image_ids)
    records = answers(predictor, compute, found, wanted)
    if called:
        records = (record | {"input": called.get(record["input"], record["input"])} for record in records)
    if pictures is not None:
        records = _with_pictures(records, predictor, found, pictures, explain)
    if to is not None and output is not None:
        assert isinstance(predictor, WritesDataSets)
        kept = list(records)
        told = predictor.write_data_set(kept, found.paths or (), to, output)
        failed, unknown, count = [record for record in kept if "error" in record], 0, len(kept)
        print("\n".join([*told, ""]))
    else:
        as_table = output is None and not as_json and sys.stdout.isatty()
        failed, unknown, count = write_records(records, output, predictor, found, as_table)
    report = f"{count - len(failed):,} of {count:,} answered" + (f": {output}" if output else "")
    strange = f"{plural(unknown, 'row has', 'rows have')} categories that training never saw: see 'unknown'"
    for line in filter(None, (report, strange if unknown else "", predictor.caveat)):
        print(line, file=sys.stdout if output else sys.stderr)  # without --output, stdout is for the answers alone
    refuse_failed(failed, count, "inputs")
    return ExitCode.OK


def _opened(
    run: str, root: Path, checkpoint: str, wanted: Wanted, explain: bool, refuse: Callable[[Sequence[Path | str]], None]
) -> tuple[Answers, Callable[[Any], Any]]:
    """Return what answers, and what it computes by; a file of its own without torch.

    refuse: raises where files of the model, or of its data, would be replaced. Raises UserError.
    """
    if is_exported(run):
        for option, is_given, what in (
            ("--explain", explain, "an exported file gives answers, not what they come from"),
            ("--size", wanted.size is not None, "an exported file takes images of the size it was exported with"),
        ):
            if is_given:
                raise ConfigError(what, where=option, fix="give the run that it was exported from")
        from mlcli.export.file import open_exported

        refuse([run])
        file = open_exported(Path(run))
        return file.answers, file.predict
    folder = find_run(run, root)

    from mlcli.saved import computing, load_predictor

    keep: list[Path | str] = []
    with contextlib.suppress(CheckpointError, ConfigError):  # what cannot be read names no files to be kept
        section = folder.config_plain().get("data")
        keep += [value for value in section.values() if isinstance(value, str)] if isinstance(section, dict) else []
    refuse(keep)
    predictor, runtime = load_predictor(str(folder.path), checkpoint, root, wanted.size)
    return predictor, computing(predictor, runtime)


def _refuse_unable(predictor: Answers, inputs: Inputs, asked: Mapping[str, Any]) -> None:
    """Raise ConfigError for what this model cannot do. asked: what was typed, by option."""
    if asked["-"] and inputs.paths is None:
        what = "this model takes rows of a table, and standard input is a picture"
        raise ConfigError(what, where="-", fix="name the CSV file")
    for option in ("--to", "--image-ids"):
        if asked[option] is not None and not isinstance(predictor, WritesDataSets):
            raise ConfigError("this model finds no objects", where=option, fix="leave it out")
    option = "--explain" if asked["--explain"] else "--pictures"
    if asked["--pictures"] is not None and (inputs.paths is None or not isinstance(predictor, DrawsAnswers)):
        raise ConfigError("this model takes rows of a table, so there are no pictures", where=option)
    if asked["--explain"] and not isinstance(predictor, ExplainsAnswers):
        what = "heat maps explain answers about whole images; this model finds objects, whose boxes say where"
        raise ConfigError(what, where=option, fix="--pictures shows the boxes")


def thresholds_typed(texts: Sequence[str]) -> dict[str, float]:
    """Return `Wanted.thresholds` of texts: "0.4" for all classes, "NAME=0.4" for one. Raises ConfigError."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise _no_score(name, value) from None
    return found


def _no_score(name: str, value: object) -> ConfigError:
    fix = f"--threshold {shlex.quote(f'{name}=0.3') if name else 0.3}"
    return ConfigError(f"scores lie between 0 and 1, and {value} does not", where="--threshold", fix=fix)


def prepared(predictor: Answers, compute: Callable[[Any], Any], wanted: Wanted) -> Callable[[Any], Any]:
    """Have a predictor answer as it is asked to, and return what it is to compute by. Raises ConfigError for what this
    model cannot do."""
    if wanted.thresholds:
        if not isinstance(predictor, ScoresObjects):
            fix = "leave it out; it is for models that find objects"
            raise ConfigError("the answers of this model have no score to filter by", where="--threshold", fix=fix)
        of_classes, names = dict(wanted.thresholds), predictor.info.class_names
        for name, score in wanted.thresholds.items():
            if not 0 <= score <= 1:
                raise _no_score(name, score)
            if name and name not in names:
                best = closest(name, names)
                fix = f"--threshold {shlex.quote(f'{best}={score:g}')}" if best else f"one of {first_few(names, 10)}"
                raise ConfigError(f"the model knows no class '{name}'", where="--threshold", fix=fix)
        predictor.score_threshold = of_classes.pop("", predictor.score_threshold)
        predictor.class_thresholds = of_classes
    tiling = tiles_asked(wanted.tiles, wanted.overlap)
    if tiling is None:
        return compute

    from mlcli.data.inputs import in_tiles

    return in_tiles(predictor, compute, tiling)


def answers(predictor: Answers, compute: Callable[[Any], Any], inputs: Inputs, wanted: Wanted) -> Iterator[Record]:
    """Return a record for each input, in order.

    compute: from inputs as in `Inputs.read` to predictions, as `prepared` returns it.
    """
    names, at_once = inputs.names, BATCH_SIZE if wanted.tiles is None else 1
    for start in range(0, len(names), at_once):
        positions = range(start, min(start + at_once, len(names)))
        answers: dict[int, Record] = {}
        for together in inputs.alike(positions):
            good, batch, errors = inputs.read(together)
            answers |= {position: {"error": error} for position, error in errors.items()}
            if good:
                answers |= dict(zip(good, predictor.records(compute(batch), inputs, good, wanted.top), strict=True))
        for position in positions:
            yield {"input": names[position], **answers[position]}


def _with_pictures(
    records: Iterable[Record], predictor: Answers, inputs: Inputs, folder: Path, explain: bool
) -> Iterator[Record]:
    """Pass the records on; save each answered image as <number>-<answer>-<file>.png."""
    assert isinstance(predictor, DrawsAnswers)
    made = False
    for number, (path, record) in enumerate(zip(inputs.paths or (), records, strict=True), start=1):
        if "error" not in record:
            answer, stem = (re.sub(r"[^\w.-]+", "_", text)[:60] for text in (predictor.caption(record), path.stem))
            if explain:
                assert isinstance(predictor, ExplainsAnswers)
                picture = predictor.explained(inputs.read([number - 1])[1], record, path.name)
            else:
                picture = predictor.picture(path, record)
            if not made:  # not before it is clear that the model can be explained
                make_output_folder(folder, marked=False)
                made = True
            write_atomically(folder / f"{number:05d}-{answer}-{stem}.png", png(picture))
        yield record
