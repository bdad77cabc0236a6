"""Facts about data that need no data, and models from what a YAML would say."""

import pytest
import torch
from pydantic import TypeAdapter

from mlcli.data.info import DataInfo
from mlcli.models.build import build as build_model
from mlcli.models.config import Model

MODEL = TypeAdapter(Model)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def images():
    """images(channels, height, width, classes) -> DataInfo"""

    def info(channels: int, height: int, width: int, classes: int = 4) -> DataInfo:
        names = tuple(f"class{index}" for index in range(classes))
        return DataInfo("image", (channels, height, width), names, "label", (0.5,) * channels, (0.25,) * channels)

    return info


@pytest.fixture
def table():
    """table(features, classes) -> DataInfo; 0 classes mean regression"""

    def info(features: int, classes: int = 4) -> DataInfo:
        names = tuple(f"class{index}" for index in range(classes))
        return DataInfo("features", (features,), names, "label", (0.0,) * features, (1.0,) * features)

    return info


@pytest.fixture
def build():
    """build(info, name=..., ...) -> nn.Module, as from a YAML's model section"""

    def model(info: DataInfo, **section) -> torch.nn.Module:
        return build_model(MODEL.validate_python(section), info)

    return model
