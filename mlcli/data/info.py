"""Facts about the data that a model needs: shape of the inputs, possible answers. No torch in here.

A `DataInfo` is found by looking at the data, never typed into a YAML, and travels inside every checkpoint, so that a
saved model can say which classes it knows and how an input must be prepared.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal


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
        """`DataInfo.from_plain(info.to_plain()) == info`"""
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}
        return cls(**values)
