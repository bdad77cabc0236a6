"""`mlcli predict`: answers for files the model has not seen. The training data are not needed."""

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcli.errors import ConfigError, DataError, ExitCode
from mlcli.experiment import Experiment

if TYPE_CHECKING:
    from mlcli.data.inputs import Inputs
    from mlcli.engine.runtime import Runtime

BATCH_SIZE = 64
FORMATS = (".jsonl", ".csv", ".json")


def run(
    run: str,
    inputs: Sequence[Path],
    *,
    output: Path | None = None,
    pictures: Path | None = None,
    top: int | None = None,
    invert: bool = False,
    score_threshold: float | None = None,
    checkpoint: str = "best",
    root: Path = Path("runs"),
) -> ExitCode:
    """Answer each input in one record: input, then label, probability and probabilities, or the number predicted.

    Of a detection: input, then objects, each with label, score and bbox (left, top, width, height in its pixels).

    An input that cannot be read has `error` in its record instead; the others are answered all the same.

    Args:
        run: folder or name of a run.
        inputs: images, folders, CSV files of paths; for a model of tables, one CSV file.
        output: .jsonl (a record a line) or .csv file (of a detection, a row for each object), or, of a detection, .json
            (COCO's list of results); written whole or not at all. None prints JSON lines.
        pictures: folder for the images with their answers.
        top: how many probabilities or objects a record has, the likeliest; None for all.
        invert: swap dark and bright, as for ink on paper.
        score_threshold: objects less certain than this are left out; None for what was best on the validation split.

    Raises UserError; DataError, after everything was written, if an input could not be read.
    """
    if output is not None and output.suffix not in FORMATS:
        raise _unknown_format(output, FORMATS)

    from mlcli.data.inputs import find_inputs

    predictor, runtime = load_predictor(run, checkpoint, root)
    if pictures is not None and predictor.info.kind != "image":
        raise ConfigError("this model takes rows of a table, so there are no pictures", where="--pictures")
    detects = predictor.config.task == "detection"
    if output is not None and output.suffix == ".json" and not detects:
        raise _unknown_format(output, FORMATS[:2])
    if score_threshold is not None:
        _set_threshold(predictor, score_threshold, detects)
    column = getattr(predictor.config.data, "path_column", "path")
    found = find_inputs(inputs, predictor.info, path_column=column, invert=invert)
    records = _answers(predictor, runtime, found, top)
    if pictures is not None:
        records = _with_pictures(records, predictor, found, pictures)
    failed, count = _write(records, output, predictor)
    report = f"{count - len(failed):,} of {count:,} answered" + (f": {output}" if output else "")
    for line in filter(None, (report, predictor.caveat)):
        print(line, file=sys.stdout if output else sys.stderr)  # without --output, stdout is for the answers alone
    if failed:
        raise DataError(
            f"{len(failed)} of {count} inputs could not be answered",
            where=f"the first: {failed[0]['input']}: {failed[0]['error']}",
            fix="each has its reason as 'error' in its record",
        )
    return ExitCode.OK


def load_predictor(run: str, checkpoint: str, root: Path) -> tuple[Any, "Runtime"]:
    """The model of a run, ready to predict. Raises CheckpointError.

    It computes in fp32 on the device there is, whatever it was trained on: answers should not depend on the machine.
    """
    from mlcli.commands.evaluate import load_whole, newer_named, refuse_other_task
    from mlcli.engine.checkpoint import model_weights
    from mlcli.engine.run import open_run
    from mlcli.engine.runtime import decide_runtime
    from mlcli.models.start import load_saved

    path = open_run(run, root).checkpoint(checkpoint)
    saved = load_whole(path)
    with newer_named(saved):
        config = Experiment.from_plain(saved["config"]).config
        refuse_other_task(saved, config.task)
        predictor = config.predictor(saved["facts"])
        predictor.adopt(saved["facts"])
        load_saved(predictor.model, model_weights(saved), path)
    anywhere = {"device": "auto", "precision": "fp32", "threads": None, "deterministic": False}
    runtime = decide_runtime(config.model_copy(update={"train": config.train.model_copy(update=anywhere)}))
    runtime.place(predictor.model).eval()
    return predictor, runtime


def _unknown_format(output: Path, formats: Sequence[str]) -> ConfigError:
    fix = f"let its name end in {' or '.join(formats)}"
    return ConfigError(f"cannot tell the format of {output}", where="--output", fix=fix)


def _set_threshold(predictor: Any, score_threshold: float, detects: bool) -> None:
    if not detects:
        fix = "leave it out, or use a run of task: detection"
        raise ConfigError("only detected objects have a score to cut at", where="--threshold", fix=fix)
    if not 0 <= score_threshold <= 1:
        raise ConfigError(
            f"scores lie between 0 and 1, and {score_threshold:g} does not", where="--threshold", fix="--threshold 0.3"
        )
    predictor.score_threshold = score_threshold


def _answers(predictor: Any, runtime: "Runtime", inputs: "Inputs", top: int | None) -> Iterator[dict[str, Any]]:
    """A record for each input, in order."""
    import torch

    names = inputs.names
    for start in range(0, len(names), BATCH_SIZE):
        positions = range(start, min(start + BATCH_SIZE, len(names)))
        good, batch, errors = inputs.read(positions)
        answers: dict[int, dict[str, Any]] = {}
        if good:
            with torch.inference_mode(), runtime.autocast():
                predictions = predictor.predict(predictor.model, batch.to(runtime.device)).to(torch.device("cpu"))
            finite = _finite(predictions)
            answers = dict(zip(good, _records(predictor, predictions, inputs, good), strict=True))
            errors |= {p: "the model's answer is not finite" for p, ok in zip(good, finite, strict=True) if not ok}
        for position in positions:
            answer = {"error": errors[position]} if position in errors else _likeliest(answers[position], top)
            yield {"input": names[position], **answer}


def _finite(predictions: Any) -> list[bool]:
    """Whether all numbers about each sample are; predictions are one tensor [B, ...] or hold several."""
    import torch

    parts = [predictions] if isinstance(predictions, torch.Tensor) else vars(predictions).values()
    flags = [part.isfinite().reshape(len(part), -1).all(dim=1) for part in parts if part is not None]
    return torch.stack(flags).all(dim=0).tolist()


def _records(predictor: Any, predictions: Any, inputs: Any, positions: Sequence[int]) -> list[dict[str, Any]]:
    """One for each sample; boxes need to know the size of the picture they are to be in."""
    if predictor.config.task != "detection":
        return predictor.records(predictions)
    from mlcli.data.decode import read_size

    return predictor.records(predictions, [read_size(inputs.paths[position]) for position in positions])


def _likeliest(record: dict[str, Any], top: int | None) -> dict[str, Any]:
    if top is not None and "objects" in record:
        return record | {"objects": record["objects"][:top]}
    if top is None or "probabilities" not in record:
        return record
    ranked = sorted(record["probabilities"].items(), key=lambda item: -item[1])
    return record | {"probabilities": dict(ranked[:top])}


def _with_pictures(
    records: Iterable[dict[str, Any]], predictor: Any, inputs: Any, folder: Path
) -> Iterator[dict[str, Any]]:
    """Pass the records on; save each answered image as <number>-<label or "n_objects">-<file>.png."""
    from mlcli.files import cannot_write

    for number, (path, record) in enumerate(zip(inputs.paths, records, strict=True), start=1):
        if "error" not in record:
            said = record["label"] if "label" in record else f"{len(record['objects'])} objects"
            label, stem = (re.sub(r"[^\w.-]+", "_", text)[:60] for text in (said, path.stem))
            target = folder / f"{number:05d}-{label}-{stem}.png"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                predictor.picture(path, record).save(target)
            except OSError as error:
                raise cannot_write(target, error) from error
        yield record


def _write(records: Iterable[dict[str, Any]], output: Path | None, predictor: Any) -> tuple[list[dict[str, Any]], int]:
    """Print the records, or write them as one file. Returns those with an error, and the number of all."""
    failed, kept, count = [], [], 0
    for count, record in enumerate(records, start=1):  # noqa: B007
        if "error" in record:
            failed.append(record)
        if output is None:
            print(json.dumps(record, ensure_ascii=False))
        else:
            kept.append(record)
    if output is not None:
        from mlcli.files import write_atomically

        match output.suffix:
            case ".csv":
                text = _as_csv(kept)
            case ".json":
                text = _as_coco(kept, predictor)
            case _:
                text = _as_jsonl(kept)
        write_atomically(output, text.encode())
    return failed, count


def _as_jsonl(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _as_coco(records: list[dict[str, Any]], predictor: Any) -> str:
    """COCO's list of results; image_id is the number of the input, from 1, file_name says which file that is."""
    results = [
        result | {"file_name": record["input"]}
        for number, record in enumerate(records, start=1)
        if "error" not in record
        for result in predictor.coco_results(record, number)
    ]
    return "[\n" + ",\n".join(json.dumps(result, ensure_ascii=False) for result in results) + "\n]\n"


def _as_csv(records: list[dict[str, Any]]) -> str:
    """A column per entry, `p_<class>` for each class that has a probability, and `error` at the end.

    Of a detection a row for each object; pictures in which nothing was found have one without any.
    """
    rows = []
    for record in records:
        if "objects" in record:
            rows += [{"input": record["input"], **_flat(thing)} for thing in record["objects"] or [{}]]
            continue
        probabilities = record.get("probabilities", {})
        flat = {key: value for key, value in record.items() if key != "probabilities"}
        rows.append(flat | {f"p_{name}": value for name, value in probabilities.items()})
    columns = dict.fromkeys(key for row in rows for key in row if key != "error")
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, "error"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(thing: dict[str, Any]) -> dict[str, Any]:
    """An object's label, score and box, each in a cell of its own."""
    if not thing:
        return dict.fromkeys(("label", "score", "left", "top", "width", "height"), "")
    sides = dict(zip(("left", "top", "width", "height"), thing["bbox"], strict=True))
    return {"label": thing["label"], "score": thing["score"], **sides}
