"""Training loops by hand and by other trainers, each in the way its own documentation shows, on ready batches.

Every loop takes a `Job` and goes through its batches once. "Watched" means a progress bar, and the loss in TensorBoard
every 50 steps. Models, optimizers and batches are the same for all but keras, which has layers of its own.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LOG_EVERY = 50
CPU = torch.device("cpu")


class Batches:
    """A whole training's batches, one after the other; a loader as far as other trainers look at it."""

    def __init__(self, make: Callable[[], Iterator[tuple[Tensor, Tensor]]], steps: int) -> None:
        self.make, self.steps, self.dataset = make, steps, range(steps)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.make()

    def __len__(self) -> int:
        return self.steps


@dataclass
class Job:
    """What is trained once: the model, its batches (inputs uint8, labels int64), how, and a folder for TensorBoard.

    Model and batches are on the device already.
    """

    model: nn.Module
    batches: Batches
    lr: float
    watched: bool
    folder: str
    device: torch.device = CPU

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=self.lr, momentum=0.9, fused=True)


def by_hand(job: Job) -> None:
    """The shortest loop that does the work."""
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    model, optimizer = job.model.train(), job.optimizer()
    writer = SummaryWriter(job.folder) if job.watched else None
    for step, (inputs, labels) in enumerate(tqdm(job.batches) if job.watched else job.batches):
        loss = functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if writer and (step + 1) % LOG_EVERY == 0:
            writer.add_scalar("loss", loss.item(), step)


def by_ignite(job: Job) -> None:
    from ignite.engine import Events, create_supervised_trainer
    from ignite.handlers import ProgressBar
    from ignite.handlers.tensorboard_logger import TensorboardLogger

    trainer = create_supervised_trainer(
        job.model,
        job.optimizer(),
        functional.cross_entropy,
        output_transform=lambda x, y, answer, loss: loss.detach(),  # its default reads the loss at every step
    )
    if job.watched:
        ProgressBar().attach(trainer)
        logger = TensorboardLogger(log_dir=job.folder)
        every = Events.ITERATION_COMPLETED(every=LOG_EVERY)
        logger.attach_output_handler(trainer, every, "train", output_transform=lambda loss: {"loss": loss.item()})
    trainer.run(job.batches, max_epochs=1, epoch_length=len(job.batches))


def by_accelerate(job: Job) -> None:
    from accelerate import Accelerator
    from tqdm import tqdm

    watch = {"log_with": "tensorboard", "project_dir": job.folder} if job.watched else {}
    accelerator = Accelerator(cpu=job.device.type == "cpu", **watch)
    model, optimizer = accelerator.prepare(job.model.train(), job.optimizer())
    if job.watched:
        accelerator.init_trackers("overhead")
    for step, (inputs, labels) in enumerate(tqdm(job.batches) if job.watched else job.batches):
        with accelerator.accumulate(model):
            loss = functional.cross_entropy(model(inputs), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        if job.watched and (step + 1) % LOG_EVERY == 0:
            accelerator.log({"loss": loss.item()}, step=step)


def by_transformers(job: Job) -> None:
    from transformers import Trainer, TrainingArguments

    class Classifying(Trainer):
        def get_train_dataloader(self) -> Any:
            return Named(job.batches.make, job.batches.steps)

        def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
            return functional.cross_entropy(model(inputs["inputs"]), inputs["labels"])

    class Named(Batches):
        def __iter__(self) -> Any:
            return ({"inputs": inputs, "labels": labels} for inputs, labels in self.make())

    os.environ["TENSORBOARD_LOGGING_DIR"] = job.folder
    arguments = TrainingArguments(
        output_dir=job.folder,
        max_steps=len(job.batches),
        report_to="tensorboard" if job.watched else "none",
        logging_strategy="steps" if job.watched else "no",
        logging_steps=LOG_EVERY,
        save_strategy="no",
        disable_tqdm=not job.watched,
        max_grad_norm=0,
        use_cpu=job.device.type == "cpu",
    )
    optimizer = job.optimizer()
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    Classifying(job.model, arguments, train_dataset=range(len(job.batches)), optimizers=(optimizer, constant)).train()


def by_lightning(job: Job) -> None:
    import lightning
    from lightning.pytorch.loggers import TensorBoardLogger

    class Classifying(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = job.model

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            inputs, labels = batch
            loss = functional.cross_entropy(self.model(inputs), labels)
            if job.watched:
                self.log("loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return job.optimizer()

    lightning.Trainer(
        accelerator="cpu" if job.device.type == "cpu" else "gpu",
        devices=1,
        max_epochs=1,
        logger=TensorBoardLogger(job.folder) if job.watched else False,
        log_every_n_steps=LOG_EVERY,
        enable_progress_bar=job.watched,
        enable_checkpointing=False,
        enable_model_summary=False,
    ).fit(Classifying(), job.batches)


def by_fastai(job: Job) -> None:
    from fastai.callback.core import Callback
    from fastai.callback.progress import ProgressCallback
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper
    from torch.utils.tensorboard import SummaryWriter

    class Loaders:
        """As much of DataLoaders as Learner uses."""

        train, device, path, n_inp = job.batches, job.device, job.folder, 1
        valid: tuple[()] = ()

        def __getitem__(self, index: int) -> Any:
            return (self.train, self.valid)[index]

    class Losses(Callback):
        """Its own TensorBoardCallback wants a data set that can show its samples."""

        def before_fit(self) -> None:
            self.writer = SummaryWriter(job.folder)

        def after_batch(self) -> None:
            if self.training and (self.train_iter + 1) % LOG_EVERY == 0:
                self.writer.add_scalar("loss", self.loss.item(), self.train_iter)

    learner = Learner(
        Loaders(),
        job.model,
        loss_func=functional.cross_entropy,
        opt_func=lambda parameters, **_: OptimWrapper(opt=job.optimizer()),
        cbs=[Losses()] if job.watched else None,
        train_bn=True,
    )
    if not job.watched:
        learner.remove_cbs([one for one in learner.cbs if isinstance(one, ProgressCallback)])
        learner.logger = lambda line: None
    learner.fit(1, lr=job.lr)


def by_keras(job: Job) -> None:
    """An MLP of its own layers, as wide as the model given; of other models it has none."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    from torch.utils.tensorboard import SummaryWriter

    linears = [module for module in job.model.modules() if isinstance(module, nn.Linear)]
    widths = [linear.out_features for linear in linears]
    layers = [keras.layers.Dense(width, activation="relu") for width in widths[:-1]]
    size = (linears[0].in_features,)
    model = keras.Sequential([keras.Input(size), keras.layers.Rescaling(1 / 255), *layers, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(job.lr, momentum=0.9), loss)
    flat = ((inputs.flatten(1).float(), labels) for inputs, labels in job.batches)

    class Losses(keras.callbacks.Callback):
        """Its own TensorBoard callback wants tensorflow."""

        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            if logs and (batch + 1) % LOG_EVERY == 0:
                writer.add_scalar("loss", logs["loss"], batch)

    writer, callbacks = SummaryWriter(job.folder), [Losses()] if job.watched else []
    model.fit(flat, steps_per_epoch=len(job.batches), epochs=1, verbose=int(job.watched), callbacks=callbacks)


PEERS: dict[str, tuple[str, Callable[[Job], None]]] = {
    "pytorch-ignite": ("ignite", by_ignite),
    "accelerate": ("accelerate", by_accelerate),
    "transformers": ("transformers", by_transformers),
    "Lightning": ("lightning", by_lightning),
    "fastai": ("fastai", by_fastai),
    "keras, torch backend": ("keras", by_keras),
}
"""Name, the package that must be there, the loop."""


def missing(package: str) -> bool:
    return importlib.util.find_spec(package) is None
