"""What the fork server has loaded before it forks: all that a short training imports; and a first step is done."""

import importlib

import torch

NEEDED = (
    "mlcli.commands.train",
    "mlcli.data.sources.arrays",
    "mlcli.engine.launch",
    "mlcli.engine.resume",
    "mlcli.engine.saver",
    "mlcli.engine.trainer",
    "mlcli.models.build",
    "mlcli.report.baselines",
    "mlcli.report.page.write",
    "mlcli.report.summary",
    "mlcli.tasks.classification.build",
    "sklearn.datasets",
    "sklearn.model_selection",
    "tests.engine.rig",
    "torch.utils.tensorboard",
)

for name in NEEDED:
    importlib.import_module(name)
torch.set_num_threads(1)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # the first optimizer imports torch's compiler: 3 s
model(torch.ones(1, 2)).sum().backward()
optimizer.step()
