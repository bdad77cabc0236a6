"""A detection from its configuration."""

from pathlib import Path
from typing import Any

from mlcli.data.check.examination import Examination
from mlcli.data.info import DataInfo
from mlcli.tasks.detection.config import Detection
from mlcli.tasks.detection.predictor import ObjectDetector
from mlcli.tasks.detection.task import DetectionTask


def build_task(config: Detection) -> DetectionTask:
    """Find the data and make the task. Raises DataError, ConfigError or CheckpointError for what does not fit."""
    return DetectionTask(config)


def build_predictor(config: Detection, facts: dict[str, Any]) -> ObjectDetector:
    """Make what predicts with a saved model, from the facts in its checkpoint; the data are not touched."""
    predictor = ObjectDetector(config.from_scratch(), DataInfo.from_plain(facts["data"]))
    predictor.adopt(facts)
    return predictor


def examine(config: Detection) -> Examination:
    """Look for everything that is wrong with the data."""
    from mlcli.tasks.detection.data.check import examine

    return examine(config.data)


def convert(config: Detection, to: str, folder: Path) -> list[str]:
    """Write the data to a new folder in another format. Returns lines for people. Raises UserError."""
    from mlcli.tasks.detection.data.annotations.convert import convert

    return convert(config.data, to, folder)
