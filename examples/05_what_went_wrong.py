# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What went wrong in this training?
#
# Four trainings that fail on purpose, each in a way that real ones do, and what the verdict, the curves and the
# layers say of it. The data are handwritten digits again, so every run takes a second or two.
#
# `tensorboard.share` is how much of the time may go into looking at the training; 1 lets it look at the layers after
# each epoch, even in runs as short as these.

# %%
import mlcli
from mlcli.errors import DivergedError

config = {
    "task": "classification",
    "data": {"name": "digits"},
    "model": {"name": "mlp", "hidden": [64], "activation": "relu"},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "train": {"epochs": 8, "batch_size": 64, "baselines": False, "tensorboard": {"share": 1, "pictures": False}},
}


def explain(run):
    """Print what a run says of itself: scores, verdict with its reasons and advice, and what was wrong with layers."""
    for split in ("train", "val"):
        print(f"{split:8}", {name: round(value, 3) for name, value in run.scores.get(split, {}).items()})
    print("verdict ", run.verdict.kind)
    for reason in run.verdict.reasons:
        print("         -", reason)
    for trouble in run.layer_troubles:
        print("layers  ", trouble)
    for advice in run.verdict.advice:
        print("try     ", advice.override, f"({advice.why})")


# %% [markdown]
# The healthy one, to compare with. A network that guesses among ten classes has a loss of ln 10 = 2.30; whatever ends
# there has learned nothing.

# %%
healthy = mlcli.train(config, name="healthy")
explain(healthy)

# %% [markdown]
# ## 1. The learning rate is much too high: divergence
#
# Each step overshoots the minimum by more than it was away from it. The loss grows until it is no longer a finite
# number. The training ends there - the step is not taken - with an error; the run folder stays and can be looked at.

# %%
try:
    mlcli.train(config, "optimizer.lr=1e6", name="diverged")
except DivergedError as error:
    print(error)

diverged = mlcli.load("diverged")
explain(diverged)

# %% [markdown]
# ## 2. The learning rate is too high: dead neurons
#
# More often nothing becomes infinite. One large step pushes the weights to where every ReLU of the layer gets a
# negative sum for every sample: it answers zero, its gradient is zero, and no later step brings it back. The loss
# stands still at ln 10, in training as in validation. It looks like a model too small for its data (underfitting), but
# a larger one would die as well. The layers tell the two apart.

# %%
dead = mlcli.train(config, "optimizer.lr=3", name="dead")
explain(dead)

# %% [markdown]
# The cure is a smaller learning rate. `mlcli lr-find config.yaml` tries all magnitudes on a copy of the model, and
# suggests one; `schedule: {name: cosine, warmup_epochs: 1}` begins with small steps.
#
# ## 3. Vanishing gradients
#
# The derivative of the sigmoid is at most 1/4. Going back through five layers of them, a gradient is multiplied by
# such a number each time, so the first layer gets almost none of it: it stays as it was drawn at random, and the
# layers behind it learn from noise. Again the loss stands still near 2.30, with a learning rate that is in order.

# %%
sigmoid = ["model.hidden=[32, 32, 32, 32, 32]", "model.activation=sigmoid"]
vanishing = mlcli.train(config, *sigmoid, name="vanishing")
explain(vanishing)

# %% [markdown]
# Two cures, and the proof that it was the gradients: the same depth and learning rate, with ReLU, whose derivative is
# 1 wherever it lets anything through; and with batch normalisation, which keeps the sums where the sigmoid is steep.

# %%
relu = mlcli.train(config, sigmoid[0], name="relu")
normalised = mlcli.train(config, *sigmoid, "model.batch_norm=true", name="normalised")
{each.path.parent.name: each.scores["val"]["accuracy"] for each in (vanishing, relu, normalised)}

# %% [markdown]
# ## 4. Overfitting
#
# 90 images to learn from and a network that can remember all of them. The training loss goes to zero, the validation
# loss does not follow: the network has learned these images rather than digits.

# %%
overfitted = mlcli.train(
    config, "data.val=0.45", "data.test=0.5", "train.epochs=30", "train.batch_size=16", name="overfitted"
)
explain(overfitted)

# %% [markdown]
# The gap stands with its uncertainty: on 809 images it is real. The best cure is more data; the next best is to make
# more of what there is: each image is moved a little, differently in each epoch.

# %%
print("epoch  training loss  validation loss")
losses = {(line["split"], line["epoch"]): line["loss"] for line in overfitted.curves if "loss" in line}
for epoch in (1, 5, 10, 20, 30):
    print(f"{epoch:5}  {losses['train', epoch]:13.3f}  {losses['val', epoch]:15.3f}")

# %% [markdown]
# ## In short
#
# | training loss | validation loss | layers | it is |
# |---|---|---|---|
# | not finite | - | - | divergence: learning rate down, or clip the gradients |
# | stands still near chance | the same | dead activations | learning rate too high |
# | stands still near chance | the same | vanishing gradients | ReLU, batch normalisation, residual connections |
# | falls slowly, still high | the same | in order | underfitting: larger model, more epochs, higher learning rate |
# | near zero | much higher, rising | in order | overfitting: more data, augmentation, regularisation |
#
# The report has all of this in one page; the norms of each layer are further down in it.

# %%
vanishing
