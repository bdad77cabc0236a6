"""A data set in one line, for people: where it is from, how many samples, how evenly the classes occur."""

from mlcli.data.config import ClassificationData, RegressionData
from mlcli.data.source import Source
from mlcli.data.splits import class_balance


def describe_data(config: ClassificationData | RegressionData, source: Source) -> str:
    """`digits (included)  1,149 train · 288 val · 360 test · 10 classes, balanced (9.6-10.3 %) · 8x8 grey`"""
    origin = getattr(config, "file", None) or getattr(config, "root", None) or "included"
    counts = " · ".join(f"{len(samples):,} {split}" for split, samples in source.splits.items())
    return f"{config.name} ({origin})  {counts} · {_answers(source)} · {_shape(source)}"


def _answers(source: Source) -> str:
    targets = source.splits["train"].targets
    if source.info.class_names:
        return class_balance(targets.numpy(), source.info.class_names)
    return f"{source.info.target} {targets.double().mean():.4g} ± {targets.double().std(correction=0):.4g}"


def _shape(source: Source) -> str:
    shape = source.info.input_shape
    if source.info.kind == "features":
        return f"{shape[0]} features"
    channels, height, width = shape
    return f"{height}x{width} {'grey' if channels == 1 else 'colour'}"
