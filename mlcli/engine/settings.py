"""Configuration sections train, optimizer, schedule and loader. No torch in here.

The third of machine learning's three steps lives in these sections: find the best function. Every field's docstring
gives its unit; the reference in docs/config.md is written from them.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mlcli.schema import ConfigPath, Seed, Strict

Probability = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


# --- optimizer -------------------------------------------------------------------------------------------------------


class OptimizerBase(Strict):
    """What all optimizers have."""

    lr: PositiveFloat
    """Peak learning rate; the schedule multiplies it."""
    weight_decay: NonNegativeFloat = 0.0
    """L2 penalty (SGD, Adam, RMSprop) or decoupled decay (AdamW), per step and relative to the learning rate."""
    decay_norm_and_bias: bool = False
    """Whether weight decay also pulls on biases and normalisation layers; usually it should not."""
    clip_norm: PositiveFloat | None = None
    """Scale all gradients down together when their common L2 norm exceeds this: the cure for exploding gradients."""
    clip_value: PositiveFloat | None = None
    """Clamp each gradient element to [-clip_value, clip_value]."""

    @model_validator(mode="after")
    def one_kind_of_clipping(self) -> Self:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("set clip_norm or clip_value, not both")
        return self


class Sgd(OptimizerBase):
    """Stochastic gradient descent with momentum (Polyak 1964) and Nesterov's look-ahead (Sutskever et al. 2013)."""

    name: Literal["sgd"]
    lr: PositiveFloat = 0.1
    momentum: Decay = 0.9
    """Share of the previous step's direction that is kept."""
    nesterov: bool = False
    """Look ahead along the momentum before measuring the gradient."""
    norm_bias_lr: PositiveFloat = 1.0
    """Learning rate of the biases of normalisation layers, as a multiple of the others'. What weight decay takes off
    them a step stays the same (Jordan 2024, arXiv:2404.00498, section 3.4: 64)."""

    @model_validator(mode="after")
    def nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Adam(OptimizerBase):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980)."""

    name: Literal["adam"]
    lr: PositiveFloat = 1e-3
    beta1: Decay = 0.9
    """Decay of the running mean of gradients."""
    beta2: Decay = 0.999
    """Decay of the running mean of squared gradients."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    name: Literal["adamw"]  # type: ignore[assignment]
    weight_decay: NonNegativeFloat = 1e-2
    """Decoupled decay, per step and relative to the learning rate."""


class RmsProp(OptimizerBase):
    """RMSprop (Hinton, Coursera lecture 6e, 2012)."""

    name: Literal["rmsprop"]
    lr: PositiveFloat = 1e-3
    alpha: Decay = 0.99
    """Decay of the running mean of squared gradients."""
    momentum: Decay = 0.0
    """Share of the previous step's direction that is kept."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""


Optimizer = Annotated[Sgd | Adam | AdamW | RmsProp, Field(discriminator="name")]


# --- schedule --------------------------------------------------------------------------------------------------------


class WithWarmup(Strict):
    """Base of all schedules."""

    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs (fractions allowed) in which the learning rate climbs linearly from near 0 to where the curve starts."""


class Constant(WithWarmup):
    """The same learning rate from the end of warm-up to the end."""

    name: Literal["constant"]


class Step(WithWarmup):
    """Multiply the learning rate by `factor` at each milestone."""

    name: Literal["step"]
    milestones: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 0.75)
    """Times of the steps: fractions of the whole training when all are below 1, otherwise epochs."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Factor by which the learning rate is multiplied."""

    @model_validator(mode="after")
    def milestones_ascend(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones must ascend, without repeats")
        return self


class Cosine(WithWarmup):
    """Half a cosine from the peak to `final` (Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts)."""

    name: Literal["cosine"]
    final: Probability = 0.0
    """Learning rate at the end, as a share of the peak."""


class OneCycle(WithWarmup):
    """Up from `start` to the peak and down to `final` (Smith & Topin 2018, arXiv:1708.07120)."""

    name: Literal["one_cycle"]
    curve: Literal["cosine", "linear"] = "cosine"
    """Shape of both ways: half a cosine each, or a straight line, which makes a triangle of them."""
    peak_at: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share of the training (after warm-up) at which the peak is reached."""
    start: Probability = 0.04
    """First learning rate, as a share of the peak."""
    final: Probability = 1e-4
    """Last learning rate, as a share of the peak."""


class Polynomial(WithWarmup):
    """`(1 - progress) ** power` from the peak down to `final`; power 1 is a straight line."""

    name: Literal["polynomial"]
    power: PositiveFloat = 1.0
    """Exponent of the curve."""
    final: Probability = 0.0
    """Learning rate at the end, as a share of the peak."""


class Plateau(WithWarmup):
    """Multiply the learning rate by `factor` when the watched validation metric has stopped improving."""

    name: Literal["plateau"]
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Factor by which the learning rate is multiplied."""
    patience: PositiveInt = 5
    """Evaluations without improvement before the learning rate drops."""
    min_delta: NonNegativeFloat = 1e-4
    """Smallest change that counts as an improvement."""
    final: Probability = 1e-3
    """Lowest learning rate, as a share of the peak."""


Schedule = Annotated[Constant | Step | Cosine | OneCycle | Polynomial | Plateau, Field(discriminator="name")]


# --- train and loader ------------------------------------------------------------------------------------------------


class Ema(Strict):
    """An exponential moving average of the weights; it is what is evaluated and saved as the best model."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Share of the old average kept per step; the first steps use less: min(decay, (1 + step) / (10 + step))."""


class Lookahead(Strict):
    """Slow weights that follow the trained ones, which go back to them every few steps (Zhang et al. 2019,
    arXiv:1907.08610) and at each epoch's end. What is kept of the slow ones grows to the end (Jordan 2024)."""

    start_epoch: PositiveInt = 4
    """Epoch, counted from 1, from whose start there are any."""
    every_steps: PositiveInt = 5
    """Steps between two times."""
    decay: Decay = 0.95
    """Share of the slow weights kept per step at the end of the training."""
    power: NonNegativeFloat = 3.0
    """Of the training's progress, by which that share is multiplied; 0 for the same share throughout."""


class EarlyStopping(Strict):
    """Stop when the watched validation metric has not improved for a while: a guard against overfitting. An exactly
    equal metric with a lower validation loss is an improvement."""

    patience: PositiveInt = 10
    """Evaluations without improvement before training stops."""
    min_delta: NonNegativeFloat = 0.0
    """Smallest change that counts as an improvement."""


class Checkpoints(Strict):
    """Intervals of checkpoints, and the number kept. The best model is always kept in addition."""

    every_epochs: PositiveInt = 1
    """Epochs between checkpoints."""
    every_steps: PositiveInt | None = None
    """Optimizer steps between further checkpoints inside an epoch; null for none."""
    keep_last: Annotated[int, Field(ge=2)] = 2
    """Number of the newest checkpoints that are kept; at least 2, so that one is left if the newest is damaged."""


class TensorBoard(Strict):
    """Logging in addition to the numbers of metrics.jsonl."""

    layers: bool = True
    """Watch each layer at log points: gradient and weight norms, update ratio, histograms, activations."""
    pictures: bool = True
    """Draw after evaluations: a batch after augmentation, mistakes, filters, confusion, curves; always at the end."""
    graph: bool = True
    """Draw the model's graph once."""
    embeddings: bool = False
    """Keep what the layer before the last makes of the judged split, for the projector; classification only."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Most of the training time that all this may take; what does not fit is done less often."""


USUAL_BATCH_SIZE = 64


class Train(Strict):
    epochs: PositiveInt = 10
    """Passes over the training split."""
    batch_size: PositiveInt | Literal["auto"] = USUAL_BATCH_SIZE
    """Samples per optimizer step; what fills no batch at an epoch's end is left out of that epoch. With auto, `train`
    measures and takes the smallest that this machine computes about as fast as any; other commands take 64."""
    accumulate: PositiveInt = 1
    """Micro-batches each batch is cut into to save memory; gradients are summed, so the step stays the same."""
    sync_batch_norm: bool | Literal["auto"] = "auto"
    """Whether batch normalisation sees the whole step's samples where several processes train
    (docs/how-to/several-processes.md); auto: yes, as in one process. Otherwise each normalises its own part."""
    auto_microbatch: bool = False
    """Cut batches into twice as many micro-batches whenever memory runs out, instead of stopping with advice."""
    watch: str | None = None
    """Validation metric that decides best, early stopping and plateau; null for the task's own (accuracy, rmse). Of
    epochs with the same value, the one with the lower validation loss is best, then the later one."""
    early_stopping: EarlyStopping | None = None
    """Stop when the watched metric has not improved for a while; null to train all epochs."""
    ema: Ema | None = None
    """Average the weights over the steps; null for none."""
    lookahead: Lookahead | None = None
    """Set the weights back to slow ones that follow them; null for none."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on; auto takes cuda, then mps, then cpu."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """Number format of matrix products and convolutions; auto takes bf16 on a GPU that has it, and for convolutional
    networks on a CPU that has it, otherwise fp32."""
    channels_last: bool | Literal["auto"] = "auto"
    """Keep images as height x width x channels in memory; auto does so on cuda, and for convolutional networks on the
    cpu. PyTorch can crash there on strided 1x1 convolutions of under 16 channels: networks that have one keep the
    usual layout."""
    compile: bool | Literal["auto"] = "auto"
    """Compile the model with torch.compile: a minute more at the start, sometimes faster steps. auto does so on cuda
    where the rest of the training is long enough to win that back; `train` alone decides it, other commands do not."""
    cuda_graphs: bool = False
    """Launch forward and backward of a step as one CUDA graph after some steps: faster where a model is small and the
    device is cuda. Not for Faster R-CNN and its kind, and not with compile, auto_microbatch or several processes."""
    time_on_device: bool = False
    """On cuda, time the parts of a step by the GPU's own events, so that nothing waits for it; otherwise the host waits
    for it after each part of the steps at log points."""
    seed: Seed = 0
    """Every random choice of the run follows from it."""
    deterministic: bool = False
    """Only use operations that give the same bits each time, also on a GPU; slower there."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads torch may use; null for all that affinity, control group and OMP_NUM_THREADS allow. Results differ in
    the last bits with their number."""
    evaluate_every: PositiveInt = 1
    """Epochs between evaluations on the validation split."""
    measure_train: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the training samples, at even distances, that is measured whenever the validation split is, and as that
    is: in evaluation mode and without augmentation. The two curves together show over- and underfitting. 100 samples at
    least, or as many as the validation split has; 0 leaves it out."""
    log_every: PositiveInt = 50
    """Optimizer steps between entries in metrics.jsonl and TensorBoard."""
    checkpoints: Checkpoints = Checkpoints()
    tensorboard: TensorBoard = TensorBoard()
    baselines: bool = True
    """Compare with simple classical models (scikit-learn) after training; cached per data set."""

    @model_validator(mode="after")
    def accumulate_fits(self) -> Self:
        if self.batch_size != "auto" and self.accumulate > self.batch_size:
            raise ValueError(f"accumulate ({self.accumulate}) cannot exceed batch_size ({self.batch_size})")
        return self

    @property
    def samples_per_step(self) -> int:
        """The batch size as a number."""
        return USUAL_BATCH_SIZE if self.batch_size == "auto" else self.batch_size


class Loader(Strict):
    cache: Literal["auto", "none", "ram", "disk", "device"] = "auto"
    """Storage of decoded samples: nowhere, in RAM, in a file that later runs find again, or on the device; auto
    takes RAM if a quarter of it suffices."""
    cache_folder: ConfigPath | None = None
    """Folder in which `cache: disk` keeps its files; null for mlcli/samples in the user's folder for caches."""
    workers: NonNegativeInt | Literal["auto"] = "auto"
    """Processes that read and decode files; auto measures which number is fastest where files are read while training
    (1.5 s at most, no result depends on it). Data held in memory need none; where a number is asked for and the device
    is the CPU, that many processes change annotated pictures that are held, ahead of training, with the same result."""
    sampler: Literal["shuffle", "balanced", "repeat_factor"] = "shuffle"
    """shuffle visits each sample once an epoch; balanced draws with replacement so that classes come equally often;
    repeat_factor shows samples with rare classes more than once an epoch (LVIS, Gupta et al. 2019)."""
    repeat_below: Annotated[float, Field(gt=0, le=1)] = 0.001
    """For repeat_factor: share of the samples below which a class is rare. Samples of a class that a share f of them
    holds come sqrt(repeat_below / f) times an epoch on average, one of several classes as often as the rarest asks."""
    prefetch: Annotated[int, Field(gt=0, le=1000)] = 2
    """Batches each worker prepares ahead."""
    ahead: bool = False
    """On cuda, make each batch on a stream of its own while the GPU learns from the one before; elsewhere this does
    nothing."""
    timeout: PositiveFloat = 120.0
    """Seconds without a batch after which a worker is held to hang."""


class TrainerSettings(Strict):
    """The sections that every task shares."""

    optimizer: Optimizer = Sgd(name="sgd")
    """Step 3, how the best function is searched for."""
    schedule: Schedule = Cosine(name="cosine")
    """Course of the learning rate from step to step."""
    train: Train = Train()
    """Length, batch size, device and precision of the training."""
    loader: Loader = Loader()
    """Reading and caching of samples."""

    @property
    def convolves(self) -> bool:
        """Whether most of the model's work are convolutions."""
        return False


class TaskSettings(TrainerSettings):
    """Base of every task's configuration. A task narrows `task` to its name and adds its own sections, among them data,
    model and loss, each of which says in its `name` which one it is."""

    task: str

    def name_in(self, section: str) -> str:
        """Return which one a section is: `config.name_in("data") == "digits"`."""
        return self.model_dump(include={section})[section]["name"]

    @classmethod
    def complete_saved(cls, plain: dict[str, Any]) -> None:
        """Give keys that a saved configuration lacks, as its version did not know them, the values that it meant, where
        these are not the defaults. plain: may hold anything."""

    def from_scratch(self) -> Self:
        """Return the same without weights learned elsewhere, for a model whose weights come from its own checkpoint."""
        return self
