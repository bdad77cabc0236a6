"""Every odd kind of image through every command: these pixels or this refusal, never a signal, never silence."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcli.data.decode import Preparation, read_image
from mlcli.data.sources.build import build_source
from mlcli.errors import DataError
from mlcli.experiment import Experiment
from mlcli.tasks.detection.data.build import build_source as build_annotated
from mlcli.tasks.detection.data.config import BoxCsv
from tests.reliability.child import in_child, type_here
from tests.reliability.odd_images import KINDS, SIDE, Odd, encoded, noise
from tests.reliability.soak import soaked

YAML = f"""
task: classification
data: {{name: folder, root: set, image_size: {SIDE}}}
model: {{name: linear}}
train: {{epochs: 1, batch_size: 4, device: cpu, threads: 1, baselines: false,
        tensorboard: {{graph: false, pictures: false}}}}
loader: {{workers: 0}}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a set of sound images, its YAML and a finished run of it."""
    folder = tmp_path_factory.mktemp("images")
    for split, first in (("train", 0), ("val", 100), ("test", 200)):
        for label, name in enumerate(("cat", "dog")):
            (folder / "set" / split / name).mkdir(parents=True)
            for number in range(2):
                (folder / "set" / split / name / f"{number}.png").write_bytes(
                    encoded(noise(first + 10 * label + number), "PNG")
                )
    (folder / "x.yaml").write_text(YAML)
    before = Path.cwd()
    os.chdir(folder)
    try:
        picture = "set/test/cat/0.png"
        for command in (
            ("train", "x.yaml", "--name", "sound"),
            # the others so that their first time is here, and not in each of the forks that follow
            ("data", "check", "x.yaml", "--json"),
            ("evaluate", "sound", "--on", "set"),
            ("predict", "sound", picture, "-o", "warm.jsonl"),
        ):
            typed = type_here(*command)
            assert typed.code == 0, typed.err
    finally:
        os.chdir(before)
    return folder


def every_command(odd: Odd) -> dict[str, Any]:
    """What comes of a file that lies in the training split, then in the test split; in the folder we are in."""
    training, testing = Path("set/train/cat", odd.name), Path("set/test/cat", odd.name)
    training.write_bytes(odd.content)
    told: dict[str, Any] = {"check": type_here("data", "check", "x.yaml", "--json")}
    told["train"] = type_here("train", "x.yaml", "--name", "odd")
    training.replace(testing)
    told["evaluate"] = type_here("evaluate", "sound", "--on", "set")
    told["predict"] = type_here("predict", "sound", testing, "-o", "answers.jsonl")
    told["record"] = json.loads(Path("answers.jsonl").read_text().splitlines()[0])  # of an animation's first frame
    told["pixels"] = decoded_by_training(testing)
    return told


def decoded_by_training(path: Path) -> np.ndarray | str:
    """The sample as a batch has it, or what was wrong with it."""
    try:
        config: Any = Experiment.load(Path("x.yaml"), ["data.normalize=imagenet"]).config
        samples = build_source(config.data).splits["test"]
        number = [samples.name(index) for index in range(len(samples))].index(str(path.absolute()))
        return samples.read(np.array([number]))[0].numpy()
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("odd", KINDS, ids=lambda odd: odd.name)
def test_every_command_says_the_same_of_a_file(trained, tmp_path, monkeypatch, odd):
    folder = Path(shutil.copytree(trained, tmp_path / "here"))
    monkeypatch.chdir(folder)
    told = in_child(lambda: every_command(odd)).value
    commands = {name: told[name] for name in ("check", "train", "evaluate", "predict")}
    codes = {name: typed.code for name, typed in commands.items()}
    assert not any("Traceback" in typed.err for typed in commands.values())
    refused = isinstance(told["pixels"], str)
    assert codes == dict.fromkeys(commands, 4 if refused else 0), commands
    if odd.refused:
        assert refused
        for shown in (told["pixels"], commands["train"].err, commands["evaluate"].err, commands["check"].out):
            assert odd.name in shown
            assert odd.refused in shown
        assert odd.refused in told["record"]["error"]
    elif odd.pixels is not None:
        assert not refused, told["pixels"]
        assert np.abs(told["pixels"].astype(int) - odd.pixels).max() <= odd.tolerance
    if refused:
        assert odd.name in told["record"]["input"]
    else:
        assert told["record"]["label"] in ("cat", "dog")


def test_prediction_sees_what_training_sees(trained, monkeypatch):
    """The answer to an odd file is the answer to the pixels that the policy makes of it, saved as a plain picture."""
    monkeypatch.chdir(trained)

    def answers() -> list[tuple[str, float]]:
        from PIL import Image

        differences = []
        for odd in KINDS:
            if odd.pixels is None:
                continue
            Path(odd.name).write_bytes(odd.content)
            out = np.empty((3, SIDE, SIDE), np.uint8)
            Preparation((SIDE, SIDE)).decode(odd.name, out)
            Image.fromarray(out.transpose(1, 2, 0)).save("plain.png")
            assert type_here("predict", "sound", odd.name, "plain.png", "-o", "both.jsonl").code == 0
            first, second = (json.loads(line) for line in Path("both.jsonl").read_text().splitlines())
            differences.append((odd.name, abs(first["probabilities"]["cat"] - second["probabilities"]["cat"])))
        return differences

    differences = in_child(answers).value
    assert len(differences) >= 25
    assert max(difference for _, difference in differences) < 1e-5, differences


def test_detection_reads_the_same_pictures(tmp_path, monkeypatch):
    """Its data are listed, checked and read by code of their own."""
    monkeypatch.chdir(tmp_path)

    def read(odds: list[Odd]) -> dict[str, np.ndarray]:
        rows = [f"{odd.name},{'ab'[number % 2]},0,0,1,1" for number, odd in enumerate(odds)]
        Path("boxes.csv").write_text("\n".join(["filename,class,xmin,ymin,xmax,ymax", *rows]) + "\n")
        for odd in odds:
            Path(odd.name).write_bytes(odd.content)
        config = BoxCsv(name="box_csv", file=Path("boxes.csv").absolute(), image_size=SIDE, fit="pad", val=0)
        records = build_annotated(config).splits["train"]
        return {Path(records.name(i)).name: records.read(np.array([i]))[0].numpy() for i in range(len(records))}

    def refusal(odd: Odd) -> str:
        try:
            read([KINDS[0], KINDS[1], odd])
        except DataError as error:
            return str(error)
        return ""

    square = [odd for odd in KINDS if odd.pixels is not None and not odd.name.startswith(("wide", "high"))]
    refused = [odd for odd in KINDS if odd.refused]
    found, refusals = in_child(lambda: (read(square), [refusal(odd) for odd in refused])).value
    for odd in square:
        assert np.abs(found[odd.name].astype(int) - odd.pixels).max() <= odd.tolerance, odd.name
    for odd, said in zip(refused, refusals, strict=True):
        assert odd.name in said or "boxes.csv:4" in said, (odd.name, said)


@pytest.mark.parametrize("name", ["sixteen_bits.png", "sixteen_bits_big_endian.tif", "floats.tif"])
def test_deep_images_keep_200_levels(name):
    """`convert` alone leaves 7 of a 16-bit ramp."""
    odd = next(odd for odd in KINDS if odd.name == name)
    assert len(np.unique(np.asarray(read_image(odd.content, 1)))) >= 200


FORMATS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "GIF": {},
    "WEBP": {"quality": 90},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
    "PPM": {},
}


@pytest.mark.parametrize("kind", FORMATS)
def test_flipped_bits_never_end_the_process(kind):
    """Damage that no list foresees: one bit anywhere in a file, its header as likely as a few kilobytes of pixels."""
    content = encoded(noise(side=24), kind, **FORMATS[kind])
    trials = soaked(80, more=2.5)

    def decode_all() -> int:
        refused = 0
        for seed in range(trials):
            draw = random.Random(f"{kind} {seed}")
            place = draw.randrange(min(200, len(content)) if seed % 2 else len(content))
            damaged = bytearray(content)
            damaged[place] ^= 1 << draw.randrange(8)
            try:
                for out in (np.empty((3, 24, 24), np.uint8), np.empty((3, 6, 6), np.uint8)):  # 6: decoded smaller
                    Preparation(out.shape[1:]).decode(bytes(damaged), out)
            except DataError:
                refused += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}: one bit of byte {place} in a {kind} raised {error!r}") from error
        return refused

    refused = in_child(decode_all).value
    assert 0 < refused < trials if kind != "PNG" else refused >= 0.9 * trials  # PNG has check sums, others have none
