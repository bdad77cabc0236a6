"""The JSON files of a run folder: what each holds, and the one way to read them.

Anybody may have written such a file, or a disk damaged it. What is read is of the types stated here, or it is refused;
more entries than these are kept as they are, as a later version may have added some.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from mlcli.errors import CheckpointError
from mlcli.reading import read_file, read_lines

MOST_BYTES = 2**28
"""Of a document; the largest known, an evaluation of a thousand classes, has 9 MB."""

NO_JSON = "Invalid JSON"
"""What pydantic's message on a text that is no JSON begins with."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""Steps, epochs, samples, bytes."""
Amount = Annotated[float, Field(ge=0, le=1e15)]
"""Seconds or megabytes."""


def _refuse_no_moment(text: str) -> str:
    moment = datetime.fromisoformat(text)
    if not 1970 <= moment.year <= 9000:  # other years do not have a local time everywhere
        raise ValueError(f"the year {moment.year}")
    return text


Moment = Annotated[str, AfterValidator(_refuse_no_moment)]
"""A time in ISO 8601, such as `2026-11-27T23:33:55+00:00`."""


class Document(BaseModel):
    """Base of all of them."""

    model_config = ConfigDict(extra="allow")


class Best(Document):
    """The best evaluation so far; no value before the first."""

    metric: str = "loss"
    split: str = "val"
    direction: Literal["min", "max"] = "max"
    value: float | None = None
    epoch: Count | None = None
    step: Count | None = None


UNFINISHED = ("interrupted", "killed", "failed", "diverged")
"""States of runs that can be gone on with; the others are running and finished."""


class Status(Document):
    """status.json: where a run stands. times: seconds by what they were spent on; memory_mb: peaks by phase."""

    state: str
    task: str | None = None
    started: Moment | None = None
    finished: Moment | None = None
    seconds: Amount | None = None
    epoch: Count | None = None
    epochs: Count | None = None
    step: Count | None = None
    best: Best | None = None
    scores: dict[str, dict[str, float | None]] | None = None
    times: dict[str, Amount] | None = None
    memory_mb: dict[str, Amount] | None = None
    exit_code: int | None = None
    error: str | None = None


class Environment(Document):
    """environment.json: versions, what was decided for the machine, and the command as it was typed."""

    mlcli: str = ""
    choices: dict[str, str] = Field(default_factory=dict)
    arguments: list[str] = Field(default_factory=list)


class SavedFacts(BaseModel):
    """Facts of a task that a model was trained for. data: `mlcli.data.info.DataInfo`."""

    task: str = ""
    data: dict[str, JsonValue]


class Summary(Document):
    """summary.json: data and model before training. describe: lines of a subject and a text; splits: their samples."""

    describe: list[tuple[str, str]] = Field(default_factory=list)
    splits: dict[str, Count] = Field(default_factory=dict)
    parameters: Count | None = None
    facts: SavedFacts | None = None


class EvaluationFile(Document):
    """evaluation-<split>.json, a `mlcli.show.details.Evaluation`: only what pages cannot do without is checked."""

    split: str = ""
    checkpoint: str = "best.ckpt"
    samples: Count | None = None
    metrics: dict[str, JsonValue] = Field(default_factory=dict)


TRAIN_MEASURED = "train_measured"
"""The "split" in metrics.jsonl of training samples measured as the others are; "train" has what the steps told."""


class Entry(Document):
    """A line of metrics.jsonl: scores, by their names, at a step."""

    split: str
    step: Count
    epoch: Count
    samples_per_s: Amount | None = None
    wait_share: Amount | None = None


class LayerLook(Document):
    """A line of layers.jsonl: a row of figures for each layer at a step, and what is wrong with them."""

    step: Count
    layers: list[dict[str, Any]]
    notes: list[str] = Field(default_factory=list)


class Saved(BaseModel):
    """What a checkpoint holds beside tensors. metrics_bytes: length of metrics.jsonl when it was saved."""

    config: dict[str, JsonValue]
    facts: SavedFacts
    step: Count
    epoch: Count
    versions: dict[str, str] = Field(default_factory=dict)
    metrics_bytes: Count = 0


def read_document(path: Path, kind: type[Document]) -> dict[str, Any]:
    """Return what a document holds. Raises CheckpointError if it cannot be read or is not as mlcli writes it."""
    try:
        return parsed(read_file(path, MOST_BYTES), kind)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
    except ValueError as error:
        reason = f"is damaged: {error}"
    raise CheckpointError(f"not a run folder: {path.name} {reason}", where=str(path.parent))


def read_entries(path: Path, kind: type[Document], most: int | None = None) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl or layers.jsonl that are of that kind; none where there is no such file.

    What follows a line that is no JSON, or was cut short by a crash, is left out. most: see `reading.read_lines`.
    Raises OSError.
    """
    entries = []
    for line in read_lines(path, most) if path.exists() else ():
        try:
            entries.append(parsed(line, kind))
        except ValueError as error:
            if str(error).startswith(NO_JSON):
                break
    return entries


def parsed(content: bytes | str, kind: type[Document]) -> dict[str, Any]:
    """Return what JSON holds. Raises ValueError, which names the first wrong entry, unless it is of that kind."""
    try:
        return kind.model_validate_json(content).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise ValueError(first_of(error)) from None


def refuse_unlike(plain: Any, kind: type[BaseModel], what: str, where: Path) -> None:
    """Raise CheckpointError, naming the first wrong entry, unless nested plain values are of that kind exactly."""
    try:
        kind.model_validate(plain, strict=True)
    except ValidationError as error:
        raise CheckpointError(f"{what} is not as mlcli writes it: {first_of(error)}", where=str(where)) from None


def first_of(error: ValidationError) -> str:
    """Return the first of pydantic's complaints, with the entry that it is about."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")]))
