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
# # Object detection
#
# A detector answers *what* and *where*: for each object a class, a score and a box. The data here are photographs
# with handwritten digits pasted onto them, made anew from a seed, with exact boxes. Training takes about a minute on
# two CPU cores; with more pictures and epochs (`configs/detection/yolo-scenes.yaml`) the scores nearly double.

# %%
import mlcli

IMAGES, SIDE, EPOCHS = 400, 96, 10
config = {
    "task": "detection",
    "data": {"name": "scenes", "images": IMAGES, "image_size": SIDE, "most_digits": 3},
    "augment": [{"name": "photometric"}],
    "model": {"name": "yolo", "strides": [8, 16], "width": 16},
    "optimizer": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05},
    "schedule": {"name": "one_cycle"},
    "train": {"epochs": EPOCHS, "batch_size": 16, "ema": {"decay": 0.98}, "baselines": False},
}

# %% [markdown]
# A YOLO predicts at every cell of two coarse maps (one cell per 8, and per 16 pixels) whether an object is centred
# there, its class and its four edges. Most cells see background; of several boxes on one object, non-maximum
# suppression keeps the surest.

# %%
run = mlcli.train(config, name="scenes")

# %% [markdown]
# ## How good is it?
#
# A box is *found* if it overlaps a true one of its class by more than an IoU (intersection over union) that one asks
# for. `map50` asks for 0.5; `map` is the mean over 0.5, 0.55 ... 0.95, so it also rewards boxes that fit tightly. A
# detector learns the first long before the second. `map` on the training pictures is twice that on the test pictures:
# 400 are few for ten classes, and the verdict above calls it overfitting.

# %%
{name: round(value, 3) for name, value in run.scores["test"].items()}

# %% [markdown]
# ## Boxes on a picture
#
# `mlcli data convert` writes the pictures and their annotations as a COCO data set, which is also what most
# annotation tools export: `mlcli.init("converted", "own.yaml")` makes a YAML for such a folder of your own.

# %%
from pathlib import Path

from mlcli.commands.data import run_convert

run_convert(run.path / "resolved.yaml", Path("converted"), "coco")

# %%
pictures = sorted(Path("converted").rglob("*.png"))[:4]
answers = run.predict(pictures, top=5)
answers[0]

# %% [markdown]
# `bbox` is left, top, width, height in pixels of the picture as it is in the file, whatever size the network works
# at.

# %%
from PIL import Image, ImageDraw

picture = Image.open(pictures[0]).convert("RGB").resize((3 * SIDE, 3 * SIDE))
draw = ImageDraw.Draw(picture)
for found in answers[0]["objects"]:
    left, top, width, height = (3 * value for value in found["bbox"])
    draw.rectangle((left, top, left + width, top + height), outline="yellow", width=2)
    draw.text((left + 3, top + 1), f"{found['label']} {found['score']:.2f}", fill="yellow")
picture
