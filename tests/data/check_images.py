"""Small folders of images for the doctor's tests: pictures as different as photographs, in classes that can be told."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")
SIZE = (48, 40)  # width, height


def picture(label: int, seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Coarse random colours under stripes whose direction is the class."""
    random = np.random.default_rng([label, seed])
    coarse = Image.fromarray(random.integers(40, 216, (7, 7, 3), dtype=np.uint8))
    base = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(float)
    y, x = np.mgrid[: size[1], : size[0]]
    angle = label * np.pi / 3
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * random.uniform(0.7, 0.9) + random.uniform(0, 6))
    noise = random.normal(0, 4, base.shape)
    return Image.fromarray(np.clip(base + 60 * wave[..., None] + noise, 0, 255).astype(np.uint8))


def write_split(folder: Path, count: int, *, seed: int = 0, ending: str = "png") -> None:
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(label, seed + number).save(folder / name / f"{number:03}.{ending}")


def write_clean(root: Path) -> Path:
    """40, 12 and 12 images a class; none like another."""
    for split, count, seed in (("train", 40, 0), ("val", 12, 1000), ("test", 12, 2000)):
        write_split(root / split, count, seed=seed)
    return root
