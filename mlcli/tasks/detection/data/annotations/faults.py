"""Everything that is wrong with a data set's annotations, in one pass and before anything is learned from them."""

from typing import TYPE_CHECKING

from mlcli.tasks.detection.data.annotations.box_csv import read_box_csv
from mlcli.tasks.detection.data.annotations.coco import read_coco
from mlcli.tasks.detection.data.annotations.judge import judge
from mlcli.tasks.detection.data.annotations.table import Fault, Table
from mlcli.tasks.detection.data.annotations.voc import read_voc
from mlcli.tasks.detection.data.annotations.yolo_txt import read_yolo_txt

if TYPE_CHECKING:
    from mlcli.tasks.detection.data.config import DetectionData

__all__ = ["Fault", "faults_of", "read_table"]


def faults_of(config: "DetectionData") -> list[Fault]:
    """All faults of a data section, whatever its `on_invalid` says; none for scenes, which are made here.

    Raises DataError or ConfigError where there is nothing to look through: no such folder, file or column.
    """
    if config.name == "scenes":
        return []
    return judge(read_table(config), "fix").faults


def read_table(config: "DetectionData") -> Table:
    """Annotations as they are written; not for scenes. Raises DataError or ConfigError as above."""
    match config.name:
        case "voc":
            return read_voc(config)
        case "coco":
            return read_coco(config)
        case "yolo_txt":
            return read_yolo_txt(config)
        case "box_csv":
            return read_box_csv(config)
        case _:
            raise AssertionError(config)
