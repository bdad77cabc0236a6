"""Interface of what predicts: its inputs, its answers, and what only some predictors can, which `isinstance` asks for.

No torch in here but for types: an exported model answers without it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from mlcli.engine.contract import Info

Record = dict[str, Any]
"""One answer as JSON's types."""


class Inputs(Protocol):
    """Samples without answers."""

    @property
    def names(self) -> Sequence[str]:
        """The file or row behind each."""

    @property
    def paths(self) -> Sequence[Path] | None:
        """The image file of each; None of rows of a table."""

    def alike(self, positions: Sequence[int]) -> Sequence[Sequence[int]]:
        """The positions in groups of samples of one shape, each to be read by itself."""

    def read(self, positions: Sequence[int]) -> tuple[list[int], Any, dict[int, str]]:
        """The positions that could be read, their inputs as in `contract.Samples.read`, or as an array of the same, and
        by position why others could not."""


class Answers(Protocol):
    """What a saved model's predictions become for people, whatever computes them."""

    @property
    def formats(self) -> Mapping[str, Callable[[list[Record]], str]]:
        """Formats other than JSON lines and CSV: the file's ending, and a function from all records to its text."""

    @property
    def caveat(self) -> str:
        """Notes on the answers for the reader; may be empty."""

    def inputs(self, paths: Sequence[Path], *, invert: bool = False) -> Inputs:
        """Return the inputs named by the user, prepared as the training data were. invert: swap dark and bright first.

        Raises DataError for what does not exist or holds nothing, ConfigError for what the model cannot take.
        """

    def records(self, predictions: Any, inputs: Inputs, positions: Sequence[int], top: int | None) -> list[Record]:
        """Predictions for the inputs at some positions as plain data; only an `error` where one is not finite.

        top: how many probabilities or objects a record has at most, the likeliest; None for all.
        """

    def rows(self, record: Record) -> list[Record]:
        """A record in the rows of a table: usually one."""


class Predictor(Answers, Protocol):
    """A saved model without its data: all that predicting needs."""

    model: "nn.Module"

    def predict(self, net: "nn.Module", inputs: "Tensor") -> Any:
        """The model's predictions for some inputs, on the inputs' device."""


@runtime_checkable
class DrawsAnswers(Protocol):
    """A predictor that can draw its answers."""

    def picture(self, image_path: Path, record: Record) -> "Image":
        """The image with its answer. Raises DataError if it cannot be read."""

    def caption(self, record: Record) -> str:
        """The answer in a few words."""


@runtime_checkable
class ExplainsAnswers(Protocol):
    """A predictor that can show what in an input decided."""

    def explained(self, inputs: Any, record: Record, name: str) -> "Image":
        """Return one input, as in `Inputs.read`, beside what in it spoke for the answer in its record.

        name: of the input, to be written below it. Raises ConfigError for a model of which nothing can be said.
        """


@runtime_checkable
class WritesDataSets(Protocol):
    """A predictor whose answers can be written as a data set that a person corrects and training reads."""

    def write_data_set(self, records: Sequence[Record], paths: Sequence[Path], format: str, folder: Path) -> list[str]:
        """Write images and their answers to a new folder, but those with an error; returns lines for people.

        format: as `mlcli data convert` knows it. Raises ConfigError for another, OutputError.
        """

    def use_image_ids(self, inputs: Inputs, file: Path) -> None:
        """Call the inputs by the ids that a file of a data set gives them. Raises DataError for those without one."""


@runtime_checkable
class ScoresObjects(Protocol):
    """A predictor whose answers have scores, and which leaves out what is less certain than a threshold."""

    score_threshold: float
    class_thresholds: dict[str, float]
    """For single classes, by their names."""

    @property
    def info(self) -> "Info": ...


@runtime_checkable
class LooksInTiles(Protocol):
    """A predictor that can look at large images in overlapping tiles."""

    def in_tiles(self, compute: Callable[[Any], Any], side: int, overlap: float) -> Callable[[Any], Any]:
        """Return the function from whole images, uint8 [H, W, C] each, to predictions for them, as `records` takes.

        From then on `inputs` are whole images, and `caveat` says how many tiles there were.

        compute: from inputs as in `contract.Samples.read` to the model's predictions.
        side: pixels of an image along a tile's longer side. overlap: share of it that the next tile sees too.

        Raises ConfigError for a side or an overlap out of range.
        """
