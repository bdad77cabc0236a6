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
# # Your own folder of images
#
# The usual form of a data set for classification is a folder for each class:
#
# ```
# photos/three/....png
# photos/five/....png
# ```
#
# Leave the next cell out if you have such a folder, and write its path into `PHOTOS`. The cell makes one of
# handwritten digits, with two faults that real folders have: a file that was not copied to its end, and the same
# picture twice.

# %%
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

PHOTOS = Path("photos")
NAMES = {1: "one", 3: "three", 8: "eight"}

digits = load_digits()
for number, (ink, label) in enumerate(zip(digits.images, digits.target, strict=True)):
    if label in NAMES and number < 900:
        folder = PHOTOS / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((ink * 255 / 16).astype("uint8")).resize((24, 24)).save(folder / f"{number}.png")

some = sorted((PHOTOS / "eight").iterdir())
(PHOTOS / "eight" / "copied.png").write_bytes(some[0].read_bytes())
(PHOTOS / "eight" / "cut-off.png").write_bytes(some[1].read_bytes()[:100])
{folder.name: len(list(folder.iterdir())) for folder in PHOTOS.iterdir()}

# %% [markdown]
# ## A YAML that fits
#
# `mlcli.init` looks at the folder - classes, sizes, splits - and writes a YAML with a comment on each key. It is
# yours to change.

# %%
import mlcli

config = mlcli.init(PHOTOS, "photos.yaml", force=True)
print(config.read_text())

# %% [markdown]
# ## Look at the data before you train
#
# `mlcli data check` reads every file once. Damaged files stop a training; duplicates
# that fall into different splits make the test score better than the model is.

# %%
from mlcli.commands.data import run_check

run_check(config, [])

# %% [markdown]
# The sheet of pictures that it names is worth a look: classes side by side show wrong labels at once. Here, the files
# are simply removed.

# %%
(PHOTOS / "eight" / "copied.png").unlink()
(PHOTOS / "eight" / "cut-off.png").unlink()

# %% [markdown]
# ## Train
#
# A small convolutional network: it looks for the same small shapes everywhere in the image, so it needs far fewer
# weights than a network whose every neuron sees every pixel. The overrides replace what the YAML says; write into the
# YAML what you want to keep.

# %%
run = mlcli.train(
    config,
    "data.image_size=24",
    "model={name: cnn}",
    "optimizer={name: adam, lr: 3e-3}",
    "train.epochs=5",
    "train.batch_size=32",
    "train.baselines=false",
    "loader.workers=0",
    name="photos",
)
run.scores["test"]["accuracy"]

# %% [markdown]
# ## Which mistakes does it make?
#
# `evaluate` measures a split again and tells more than one number: precision and recall for each class, and which
# class is taken for which. With `on="other/folder"` it measures new labelled images instead.

# %%
result = run.evaluate("val")
for row in result["classes"]:
    print(row)

# %% [markdown]
# ## Use it
#
# A file that cannot be read has `error` in its answer, and the others are answered all the same.

# %%
for answer in run.predict(sorted((PHOTOS / "three").iterdir())[:3], top=1):
    print(answer)

# %% [markdown]
# `mlcli predict photos FOLDER -o answers.csv --pictures shown/` writes a table and the images with their answers, and
# `run.export("onnx")` one file for other programs: see docs/how-to/deploy.md.
