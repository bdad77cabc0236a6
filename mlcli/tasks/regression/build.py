"""A regression from its configuration."""

from functools import partial
from pathlib import Path
from typing import Any, assert_never

from torch.nn import functional

from mlcli.data.check.examination import Examination
from mlcli.data.check.examine import examine as examine_data
from mlcli.data.info import DataInfo
from mlcli.data.sources.build import build_source, new_data
from mlcli.engine.membership import KnownData
from mlcli.tasks.regression.config import L1, Loss, Mse, Regression, SmoothL1
from mlcli.tasks.regression.task import Criterion, RegressionTask, Regressor


def build_task(config: Regression, known: KnownData | None = None) -> RegressionTask:
    """Find the data and make the task. Raises DataError, ConfigError or CheckpointError for what does not fit.

    known: what a run knows of the data, which are divided as it did.
    """
    source = build_source(config.data, regression=True, known=known)
    return RegressionTask(config, source, *build_loss(config.loss))


def build_predictor(config: Regression, facts: dict[str, Any]) -> Regressor:
    """Make what predicts with a saved model, from the facts in its checkpoint; the data are not touched."""
    predictor = Regressor(config.from_scratch(), DataInfo.from_plain(facts["data"]))
    predictor.adopt(facts)
    return predictor


def on_new_data(config: Regression, path: Path, facts: dict[str, Any]) -> Regression:
    """Return the configuration with all of new data in place of its own."""
    data = new_data(config.data, path, facts["data"]["target"])
    return config.model_copy(update={"data": data})


def examine(config: Regression) -> Examination:
    """Look for everything that is wrong with the data."""
    return examine_data(config.data, regression=True)


def build_loss(config: Loss) -> tuple[Criterion, str]:
    """Return the loss, and in words what it measures if the mean of the training targets is answered.

    Squared error (Legendre 1805), absolute error (Laplace 1774) or the smooth step between them (Girshick 2015,
    arXiv:1504.08083, eq. 3, which is Huber's 1964 loss divided by beta).
    """
    match config:
        case Mse():
            return functional.mse_loss, "the variance of the standardised target, 1 over the whole training split"
        case L1():
            return functional.l1_loss, "the mean distance of the standardised target from its mean"
        case SmoothL1(beta=beta):
            smooth_l1 = partial(functional.smooth_l1_loss, beta=beta)
            return smooth_l1, "the smooth distance of the standardised target from its mean"
    assert_never(config)
