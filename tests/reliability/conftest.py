"""Places for trials."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability import hunt


@pytest.fixture
def arena() -> Iterator[Path]:
    """An empty folder; in memory where that can be: a kill is no test of a disk, and waiting for one takes time."""
    shared_memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=shared_memory if os.access(shared_memory, os.W_OK) else None)).resolve()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Data, YAMLs and runs for hunts; they leave it as it was."""
    return hunt.build_world(tmp_path_factory.mktemp("world"))
