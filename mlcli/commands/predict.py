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
FORMATS = (".jsonl", ".csv")


def run(
    run: str,
    inputs: Sequence[Path],
    *,
    output: Path | None = None,
    pictures: Path | None = None,
    top: int | None = None,
    invert: bool = False,
    checkpoint: str = "best",
    root: Path = Path("runs"),
) -> ExitCode:
    """Answer each input in one record: input, then label, probability and probabilities, or the number predicted.

    An input that cannot be read has `error` in its record instead; the others are answered all the same.

    Args:
        run: folder or name of a run.
        inputs: images, folders, CSV files of paths; for a model of tables, one CSV file.
        output: .jsonl (a record a line) or .csv file, written whole or not at all; None prints JSON lines.
        pictures: folder for the images with their answers.
        top: how many probabilities a record has, the likeliest; None for all, in label order.
        invert: swap dark and bright, as for ink on paper.

    Raises UserError; DataError, after everything was written, if an input could not be read.
    """
    if output is not None and output.suffix not in FORMATS:
        fix = f"let its name end in {' or '.join(FORMATS)}"
        raise ConfigError(f"cannot tell the format of {output}", where="--output", fix=fix)

    from mlcli.data.inputs import find_inputs

    predictor, runtime = load_predictor(run, checkpoint, root)
    if pictures is not None and predictor.info.kind != "image":
        raise ConfigError("this model takes rows of a table, so there are no pictures", where="--pictures")
    column = getattr(predictor.config.data, "path_column", "path")
    found = find_inputs(inputs, predictor.info, path_column=column, invert=invert)
    records = _answers(predictor, runtime, found, top)
    if pictures is not None:
        records = _with_pictures(records, predictor, found, pictures)
    failed, count = _write(records, output)
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
    from mlcli.engine.checkpoint import load_checkpoint, model_weights
    from mlcli.engine.run import open_run
    from mlcli.engine.runtime import decide_runtime
    from mlcli.models.start import load_saved

    path = open_run(run, root).checkpoint(checkpoint)
    saved = load_checkpoint(path)
    config = Experiment.from_plain(saved["config"]).config
    predictor = config.predictor(saved["facts"])
    load_saved(predictor.model, model_weights(saved), path)
    anywhere = {"device": "auto", "precision": "fp32", "threads": None, "deterministic": False}
    runtime = decide_runtime(config.train.model_copy(update=anywhere))
    runtime.place(predictor.model).eval()
    return predictor, runtime


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
                predictions = predictor.predict(predictor.model, batch.to(runtime.device)).cpu()
            finite = predictions.isfinite().reshape(len(good), -1).all(dim=1).tolist()
            answers = dict(zip(good, predictor.records(predictions), strict=True))
            errors |= {p: "the model's answer is not finite" for p, ok in zip(good, finite, strict=True) if not ok}
        for position in positions:
            answer = {"error": errors[position]} if position in errors else _likeliest(answers[position], top)
            yield {"input": names[position], **answer}


def _likeliest(record: dict[str, Any], top: int | None) -> dict[str, Any]:
    if top is None or "probabilities" not in record:
        return record
    ranked = sorted(record["probabilities"].items(), key=lambda item: -item[1])
    return record | {"probabilities": dict(ranked[:top])}


def _with_pictures(
    records: Iterable[dict[str, Any]], predictor: Any, inputs: Any, folder: Path
) -> Iterator[dict[str, Any]]:
    """Pass the records on; save each answered image as <number>-<label>-<file>.png."""
    from mlcli.engine.files import cannot_write

    for number, (path, record) in enumerate(zip(inputs.paths, records, strict=True), start=1):
        if "error" not in record:
            label, stem = (re.sub(r"[^\w.-]+", "_", text)[:60] for text in (record["label"], path.stem))
            target = folder / f"{number:05d}-{label}-{stem}.png"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                predictor.picture(path, record).save(target)
            except OSError as error:
                raise cannot_write(target, error) from error
        yield record


def _write(records: Iterable[dict[str, Any]], output: Path | None) -> tuple[list[dict[str, Any]], int]:
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
        from mlcli.engine.files import write_atomically

        write_atomically(output, (_as_csv(kept) if output.suffix == ".csv" else _as_jsonl(kept)).encode())
    return failed, count


def _as_jsonl(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _as_csv(records: list[dict[str, Any]]) -> str:
    """A column per entry, `p_<class>` for each class that has a probability, and `error` at the end."""
    rows = []
    for record in records:
        probabilities = record.get("probabilities", {})
        flat = {key: value for key, value in record.items() if key != "probabilities"}
        rows.append(flat | {f"p_{name}": value for name, value in probabilities.items()})
    columns = dict.fromkeys(key for row in rows for key in row if key != "error")
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, "error"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
