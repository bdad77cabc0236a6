"""Real, tiny runs that the command tests look at: trained once, through the same code as any other."""

import csv
from pathlib import Path

import pytest

from mlcli.commands import train
from mlcli.data.config import ClassificationTable
from mlcli.data.source import Source
from mlcli.data.sources.build import build_source

YAMLS = {
    "digits": """
task: classification
data: {name: digits}
model: {name: mlp, hidden: [32]}
train: {epochs: 2, device: cpu, threads: 1, baselines: false}
""",
    "perceptron": """
task: classification
data: {name: digits}
model: {name: linear}
loss: {name: hinge}
optimizer: {name: sgd, lr: 0.01}
train: {epochs: 1, device: cpu, threads: 1, baselines: false}
""",
    "wine": """
task: classification
data: {name: csv, file: wine.csv, target: label}
model: {name: linear}
train: {epochs: 3, batch_size: 16, device: cpu, threads: 1, baselines: false}
""",
    "diabetes": """
task: regression
data: {name: diabetes}
model: {name: linear}
optimizer: {name: adam, lr: 0.05}
train: {epochs: 3, batch_size: 32, device: cpu, threads: 1, baselines: false}
""",
}


def write_table(path: Path, source: Source, splits: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Rows of a source as a CSV file, its labels under these names."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*source.info.preparation["features"], "label"])
        for split in splits:
            samples = source.splits[split]
            inputs = samples.read(range(len(samples)))  # type: ignore[arg-type]
            for row, label in zip(inputs.tolist(), samples.targets.tolist(), strict=True):
                writer.writerow([*(f"{value:.9g}" for value in row), names[label]])


@pytest.fixture(scope="session")
def runs_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of four finished runs: digits, perceptron, wine (a CSV file beside it) and diabetes."""
    folder = tmp_path_factory.mktemp("experiments")
    wine = build_source(ClassificationTable(name="wine"))
    write_table(folder / "wine.csv", wine, ("train", "val", "test"), ("red", "rosé", "white"))
    for name, text in YAMLS.items():
        (folder / f"{name}.yaml").write_text(text)
        train.run(folder / f"{name}.yaml", [], name=None, resume=None, root=folder / "runs")
    return folder / "runs"
