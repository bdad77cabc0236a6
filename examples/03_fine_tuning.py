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
# # Fine-tuning: start from what was learned elsewhere
#
# The first layers of a convolutional network learn edges and strokes, which are useful far beyond the images they
# were learned from. So with few images of your own, start from a network that has seen many others.
#
# With photographs, the many others are ImageNet's 1.3 million (`model: {name: torchvision, arch: resnet18, weights:
# default}`, downloaded once). Here both sides are handwritten digits, so that it takes seconds: a thousand clean
# scans, and **five "photographs" of each digit** - turned, blurred, noisy and of low contrast.

# %%
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits

FEW = 5
digits = load_digits()
noise = np.random.default_rng(0)


def save(root, numbers, photographed):
    for number in numbers:
        image = Image.fromarray((digits.images[number] * 255 / 16).astype("uint8")).resize((16, 16))
        if photographed:
            image = image.rotate(noise.uniform(-25, 25)).filter(ImageFilter.GaussianBlur(0.8))
            pixels = 60 + 0.4 * np.asarray(image) + noise.normal(0, 15, (16, 16))
            image = Image.fromarray(pixels.clip(0, 255).astype("uint8"))
        folder = Path(root) / str(digits.target[number])
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number}.png")


save("scans", range(1000), photographed=False)
for label in range(10):
    later = [number for number in range(1000, 1797) if digits.target[number] == label]
    save("photos/train", later[:FEW], photographed=True)
    save("photos/val", later[FEW : FEW + 10], photographed=True)
    save("photos/test", later[FEW + 10 :], photographed=True)

# %% [markdown]
# ## The network that has seen many
#
# The test split of the scans says how good it is on scans; `on` measures it on the photographs, which it has never
# seen. That accuracy falls by so much is called a domain shift.

# %%
import mlcli

config = {
    "task": "classification",
    "data": {"name": "folder", "root": "scans", "image_size": 16, "channels": 1},
    "model": {"name": "cnn"},
    "optimizer": {"name": "adam", "lr": 3e-3},
    "loader": {"workers": 0},
    "train": {"epochs": 5, "batch_size": 32, "baselines": False},
}
source = mlcli.train(config, name="source")
of_scans = source.scores["test"]["accuracy"]
untuned = source.evaluate(on="photos/test")["metrics"]["accuracy"]
of_scans, untuned

# %% [markdown]
# ## From scratch, with few
#
# The other comparison that fine-tuning has to win: the same network, the same 50 photographs, random weights.

# %%
few = config | {
    "data": {"name": "folder", "root": "photos", "image_size": 16, "channels": 1},
    "train": {"epochs": 20, "batch_size": 10, "baselines": False},
}
scratch = mlcli.train(few, name="scratch")

# %% [markdown]
# ## Fine-tuned
#
# `weights` names the run; what fits is loaded by name and shape, and the last layer starts anew. `freeze` takes
# patterns of the names of parameters that stay as they are. Here are the names; `mlcli inspect X.yaml` shows them as
# a table.

# %%
[name for name, _ in source.model.named_parameters()]

# %% [markdown]
# `blocks.*` is everything but the last layer. What is left to train, 850 weights, cannot remember 50 images so
# easily.

# %%
frozen = few | {"finetune": {"weights": str(source.path), "freeze": ["blocks.*"]}}
tuned = mlcli.train(frozen, name="tuned")

# %% [markdown]
# ## Or let everything move, slowly
#
# `trunk_lr` is the learning rate of all that was loaded, as a share of the last layer's. With hundreds of images that
# is usually better than freezing; with very few it can undo what was learned. Whether it does here is for the
# validation split to say.

# %%
slowly = few | {"finetune": {"weights": str(source.path), "trunk_lr": 0.1}}
moving = mlcli.train(slowly, name="moving")

# %%
print(f"untuned  test {untuned:.3f}")
for run in (scratch, tuned, moving):
    print(
        f"{run.path.parent.name:8} test {run.scores['test']['accuracy']:.3f}  val {run.scores['val']['accuracy']:.3f}"
    )

# %% [markdown]
# 647 test images stand behind each number, so each is good to about 3.5 points (two standard errors); the 100
# validation images are good to 9. What differs by less than that is a matter of luck: repeat with `"train.seed=1"`
# and see.
