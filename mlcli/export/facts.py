"""What an exported file says of itself: the facts that its answers need, and where it comes from. No torch in here."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from mlcli.data.info import PlainInfo
from mlcli.engine.documents import first_of

KEY = "mlcli"
"""Of the entry of the file's metadata that holds the facts as JSON."""
INPUT = "inputs"
"""Name of the model's one input."""


class Answering(BaseModel):
    """Facts of a task that make answers of outputs; the task's own are checked by it."""

    model_config = ConfigDict(extra="allow")

    data: PlainInfo


class Facts(BaseModel):
    """The entry `mlcli` of a file's metadata.

    format: of this entry. mlcli, torch: versions that wrote it. run, epoch: where its weights come from.
    model: the model section of the run's configuration. answers: what the task needs for its answers, the facts about
    the data among it. batch: samples that the file takes at once, None for any number. precision: of its weights and
    arithmetic.
    """

    format: Literal[1]
    mlcli: str
    torch: str
    task: str
    run: str
    epoch: int
    model: dict[str, JsonValue]
    answers: dict[str, JsonValue]
    batch: Annotated[int, Field(ge=1, le=2**20)] | None
    precision: Literal["fp32", "fp16"] = "fp32"

    def to_json(self) -> str:
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> "Facts":
        """Read and check them. Raises ValueError, which names the first wrong entry."""
        try:
            facts = cls.model_validate_json(text, strict=True)
            Answering.model_validate(facts.answers, strict=True)
        except ValidationError as error:
            raise ValueError(first_of(error)) from None
        return facts
