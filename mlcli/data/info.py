"""Facts about the data that a model needs: shape of the inputs, possible answers. No torch in here.

A `DataInfo` is found by looking at the data, never typed into a YAML, and travels inside every checkpoint, so that a
saved model can say which classes it knows and how an input must be prepared.
"""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, FiniteFloat, model_validator

MOST_INPUTS = 2**28
"""Numbers of one sample: a picture of 89 million pixels in colour has as many."""


@dataclass(frozen=True)
class DataInfo:
    """Facts found in a data set.

    kind: "image" (uint8 pixels, channels first) or "features" (float32 columns).
    input_shape: (channels, height, width) or (features,).
    class_names: name of each class in label order; empty for regression.
    target: what is predicted: "label", or the name of the regression target's column.
    mean, std: of the training split, per channel in pixel values divided by 255, or per feature; what `Normalized`
        subtracts and divides by.
    preparation: how raw input becomes a tensor, as plain data: image size, fit and channels of image files, or columns,
        categories and fill values of tables. Enough to predict without the training data.
    """

    kind: Literal["image", "features"]
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    target: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preparation: dict[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_outputs(self) -> int:
        """Outputs of the model: one per class, or one number for regression."""
        return self.num_classes or 1

    def to_plain(self) -> dict[str, Any]:
        """Return lists, strings and numbers, for JSON and checkpoints."""
        plain = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "DataInfo":
        """`DataInfo.from_plain(info.to_plain()) == info`; entries that it does not know are left out."""
        known: dict[str, Any] = {field.name: plain[field.name] for field in fields(cls) if field.name in plain}
        tuples = {key: tuple(value) for key, value in known.items() if isinstance(value, list)}
        return cls(**(known | tuples))


# --- facts that somebody else may have written -----------------------------------------------------------------------

Side = Annotated[int, Field(ge=1, le=MOST_INPUTS)]


class Encoding(BaseModel):
    """How a column becomes features. missing: the number that stands for a gap; values: the categories.

    missing_values: what cells hold no value, besides what never is one.
    decimal, affix: how its numbers are written, see `mlcli.data.sources.columns.Form`.
    """

    name: str
    kind: Literal["number", "category"]
    missing: FiniteFloat = 0.0
    values: list[str] = Field(default_factory=list)
    missing_values: list[str | FiniteFloat] = Field(default_factory=list)
    decimal: Literal["plain", "point", "comma"] = "plain"
    affix: str = ""

    @model_validator(mode="after")
    def says_all(self) -> Self:
        if ("missing" if self.kind == "number" else "values") not in self.model_fields_set:
            raise ValueError(f"column '{self.name}' lacks what a {self.kind} needs")
        return self


class PlainPreparation(BaseModel):
    """The entries of `DataInfo.preparation` that mlcli itself reads; others are the task's own."""

    image_size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    fit: Literal["crop", "stretch", "pad"] = "crop"
    channels: Literal[1, 3] | None = None
    category_ids: list[int] | None = None
    anchors_wh: list[Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]] | None = None
    columns: list[Encoding] | None = None
    features: list[str] | None = None
    offsets: list[FiniteFloat] | None = None
    target_offset: FiniteFloat = 0.0
    target_mean: FiniteFloat | None = None
    target_std: FiniteFloat | None = None


class PlainInfo(BaseModel):
    """`DataInfo.to_plain()` as somebody may have written it. Validated strictly, a model can be made from it."""

    kind: Literal["image", "features"]
    input_shape: Annotated[list[Side], Field(min_length=1, max_length=3)]
    class_names: list[str]
    target: str
    mean: list[FiniteFloat]
    std: list[FiniteFloat]
    preparation: PlainPreparation

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        found, channels, classes = self.preparation, self.input_shape[0], len(self.class_names)
        given = {name for column in found.columns or () for name in features_of(column.model_dump())}
        for fits, what in (
            (math.prod(self.input_shape) <= MOST_INPUTS, "input_shape is too large"),
            (self.kind == "features" or len(self.input_shape) == 3, "an image has channels, height and width"),
            (len(self.mean) == len(self.std) == channels, f"mean and std are not those of {channels} channels"),
            (found.image_size in (None, self.input_shape[1:]), "image_size is not that of input_shape"),
            (found.channels in (None, channels), "channels are not those of input_shape"),
            (len(set(self.class_names)) == classes, "two classes have one name"),
            (found.category_ids is None or len(found.category_ids) == classes, "category_ids are not the classes'"),
            (found.features is None or len(found.features) == channels, "features are not those of input_shape"),
            (found.columns is None or given >= {*(found.features or ())}, "no column gives one of the features"),
            (found.offsets is None or len(found.offsets) == channels, "offsets are not those of the features"),
        ):
            if not fits:
                raise ValueError(what)
        return self


def features_of(column: dict[str, Any]) -> list[str]:
    """Return the features that a column of a table becomes: its name, or "color=red" for each category."""
    name = column["name"]
    return [name] if column["kind"] == "number" else [f"{name}={value}" for value in column["values"]]
