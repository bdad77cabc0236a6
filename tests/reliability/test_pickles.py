"""Weight files from strangers, through every command that reads one: refused in words, and nothing in them is run."""

import ast
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import mlcli
from tests.conftest import Typed
from tests.reliability import hostile_files
from tests.reliability.child import in_child, type_here
from tests.reliability.hostile_files import saved, sealed
from tests.reliability.soak import LONG

YAML = """
task: classification
data: {name: digits}
model: {name: linear}
train: {epochs: 1, batch_size: 256, device: cpu, threads: 1, baselines: false,
        tensorboard: {graph: false, pictures: false}}
"""
RUN = "runs/x/only"
CANARY = Path("canary")
MOST_MB = 300.0  # of growth; a header of 90 MB is read before it is refused
HOSTILE = [*hostile_files.programs(), *hostile_files.broken(), *hostile_files.safetensors()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a YAML, a finished run of it and a picture to ask about."""
    folder = tmp_path_factory.mktemp("strangers")
    before = Path.cwd()
    os.chdir(folder)
    try:
        Path("x.yaml").write_text(YAML)
        typed = type_here("train", "x.yaml")
        assert typed.code == 0, typed.err
        Image.new("L", (8, 8), 99).save("picture.png")
        next(Path("runs/x").iterdir()).rename(RUN)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Path:
    """A copy of that folder to spoil, in which we are; the run's folder."""
    folder = Path(shutil.copytree(trained, tmp_path / "here"))
    monkeypatch.chdir(folder)
    CANARY.write_text("alive")
    return folder / RUN


def commands() -> Iterator[tuple[str, Callable[[], Typed]]]:
    """Everything that reads a checkpoint of the run."""
    yield "evaluate", lambda: type_here("evaluate", RUN)
    yield "evaluate last", lambda: type_here("evaluate", RUN, "--checkpoint", "last")
    yield "predict", lambda: type_here("predict", RUN, "picture.png")
    yield "resume", lambda: type_here("train", "--resume", RUN, "train.epochs=2")
    yield "fine-tune", lambda: type_here("train", "x.yaml", "finetune.weights=runs/x/only")


def typed_all(commands: Iterator[tuple[str, Callable[[], Typed]]]) -> tuple[dict[str, Typed], float]:
    """What each says, and by how much the process grew."""
    spent = in_child(lambda: {name: command() for name, command in commands})
    return spent.value, spent.growth_mb


def replace_checkpoints(run: Path, content: bytes) -> None:
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(content)


def refused(answers: dict[str, Typed], code: int = 5) -> None:
    assert {name: typed.code for name, typed in answers.items()} == dict.fromkeys(answers, code), answers
    assert not any("Traceback" in typed.err for typed in answers.values()), answers
    assert CANARY.read_text() == "alive"


def test_the_genuine_run_passes_them_all(here):
    """What follows is refused for what is in it, not for how it is asked."""
    answers, _ = typed_all(commands())
    assert {name: typed.code for name, typed in answers.items()} == dict.fromkeys(answers, 0), answers


def test_the_traps_are_armed(here):
    """Loaded without care, the files do what they are refused for."""
    Path("w.pth").write_bytes(next(hostile_files.programs()).content)
    in_child(lambda: torch.load("w.pth", weights_only=False))
    assert CANARY.read_text() == "dead\n"


@pytest.mark.parametrize("hostile", [h for h in HOSTILE if h.ending == ".pth"], ids=lambda h: h.name)
def test_a_hostile_checkpoint_is_refused_by_every_command(here, hostile):
    replace_checkpoints(here, sealed(hostile.content))
    answers, growth_mb = typed_all(commands())
    refused(answers)
    assert growth_mb < MOST_MB
    assert all(hostile.named in typed.err for typed in answers.values())


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda h: h.name + h.ending)
def test_hostile_weights_are_refused(here, hostile):
    Path("inner.pth").write_bytes(next(hostile_files.programs()).content)
    weights = Path(f"weights{hostile.ending}")
    weights.write_bytes(hostile.content)
    answers, growth_mb = typed_all(fine_tuning(weights))
    refused(answers)
    assert growth_mb < MOST_MB
    assert all(hostile.named in typed.err and str(weights) in typed.err for typed in answers.values())
    assert [path.name for path in Path("runs").glob("[!.]*")] == ["x"], "no run was begun"


def fine_tuning(weights: Path) -> Iterator[tuple[str, Callable[[], Typed]]]:
    yield "weights", lambda: type_here("train", "x.yaml", f"finetune.weights={weights}", "--name", "new")


def test_the_environment_cannot_turn_the_care_off(here, monkeypatch):
    """torch has a variable that makes it trust files; it holds where a call does not say otherwise."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    hostile = next(hostile_files.programs())
    replace_checkpoints(here, sealed(hostile.content))
    Path("w.pth").write_bytes(hostile.content)
    answers, _ = typed_all(iter([*commands(), *fine_tuning(Path("w.pth"))]))
    refused(answers)


# --- plain values of the wrong kind ----------------------------------------------------------------------------------

SPOILED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no config": lambda saved: saved.pop("config"),
    "no facts": lambda saved: saved.pop("facts"),
    "facts of nothing": lambda saved: saved.update(facts={}),
    "facts that are a list": lambda saved: saved.update(facts=[1, 2]),
    "a config that is text": lambda saved: saved.update(config="task: classification"),
    "a task that there is not": lambda saved: saved["facts"].update(task="poetry"),
    "class names that are numbers": lambda saved: saved["facts"]["data"].update(class_names=[1, 2]),
    "a shape that is text": lambda saved: saved["facts"]["data"].update(input_shape="8x8"),
    "a model that is a list": lambda saved: saved.update(model=[1]),
    "weights that are numbers": lambda saved: saved.update(model=dict.fromkeys(saved["model"], 1.0)),
    "weights of other names": lambda saved: saved.update(model={f"x.{k}": v for k, v in saved["model"].items()}),
    "weights of other shapes": lambda saved: saved.update(model={k: v[..., None] for k, v in saved["model"].items()}),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_checkpoint_of_the_wrong_content_is_refused(here, spoil):
    path = here / "checkpoints/best.ckpt"
    content = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
    spoil(content)
    replace_checkpoints(here, sealed(saved(content)))
    answers, _ = typed_all((name, command) for name, command in commands() if name in ("evaluate", "predict", "resume"))
    refused(answers)


# --- the other files of a run ----------------------------------------------------------------------------------------

GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(4096),
    "null": b"null",
    "a list": b"[1, [2], {}]",
    "another mapping": b'{"state": 1, "best": [1], "scores": "x", "train": {"epochs": "y"}, "step": {}}\n',
    "brackets": b"[" * 200_000,
    "a long number": b'{"state": ' + b"9" * 10_000 + b"}",
    "a pickle": pickle.dumps(hostile_files.Call(os.system, hostile_files.KILL_CANARY)),
    "a script": json.dumps({"state": "<script>x</script>", "task": "</title><script>x</script>"}).encode(),
}
READERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "status.json": (("runs",), ("runs", "--json"), ("runs", "compare", RUN, RUN), ("report", RUN), ("evaluate", RUN),
                    ("predict", RUN, "picture.png")),
    "resolved.yaml": (("runs",), ("runs", "compare", RUN, RUN), ("report", RUN), ("evaluate", RUN),
                      ("predict", RUN, "picture.png")),
    "metrics.jsonl": (("runs", "compare", RUN, RUN), ("report", RUN)),
    "summary.json": (("report", RUN),),
    "environment.json": (("report", RUN),),
    "evaluation-test.json": (("report", RUN),),
    "layers.jsonl": (("report", RUN),),
    "baselines.json": (("report", RUN),),
}  # fmt: skip
"""Which commands look into a file."""


def garbage_for(name: str) -> dict[str, bytes]:
    """A covering selection: each kind for several files, and several kinds for each; in the long run all."""
    kinds, offset = list(GARBAGE), list(READERS).index(name)
    return {kind: GARBAGE[kind] for number, kind in enumerate(kinds) if LONG or (number + offset) % 3 != 0}


@pytest.mark.parametrize("name", READERS)
def test_garbage_in_a_file_of_the_run_ends_in_words(here, name):
    """Some commands do without the file, others refuse the run; none runs it or fails with a traceback."""

    def spoil_each() -> list[tuple[str, tuple[str, ...], Typed, str]]:
        told = []
        for kind, garbage in garbage_for(name).items():
            for command in READERS[name]:
                (here / name).write_bytes(garbage)
                typed = type_here(*command)
                page = (here / "report.html").read_text() if command[0] == "report" else ""
                told.append((kind, command, typed, page))
        return told

    told = in_child(spoil_each).value
    for kind, command, typed, page in told:
        assert "Traceback" not in typed.err, (kind, command, typed.err)
        assert typed.code in ((0, 5) if name != "resolved.yaml" else (0, 2, 5)), (kind, command, typed)
        assert "<script>x" not in page
        if command[:2] in (("runs",), ("runs", "--json")):
            assert typed.code == 0, "one damaged run does not keep the others from being listed"
    assert CANARY.read_text() == "alive"


@pytest.mark.parametrize("name", READERS)
def test_garbage_in_a_file_of_the_run_does_not_stop_resuming(here, name):
    """Its own state it has from the checkpoint; the config and the status it cannot do without."""

    def resume_each() -> list[tuple[str, Typed]]:
        told = []
        for epochs, (kind, garbage) in enumerate(garbage_for(name).items(), start=2):
            status, resolved = (here / "status.json").read_bytes(), (here / "resolved.yaml").read_bytes()
            (here / name).write_bytes(garbage)
            told.append((kind, type_here("train", "--resume", RUN, f"train.epochs={epochs}")))
            if told[-1][1].code:
                (here / "status.json").write_bytes(status)
                (here / "resolved.yaml").write_bytes(resolved)
        return told

    for kind, typed in in_child(resume_each).value:
        assert "Traceback" not in typed.err, (kind, typed.err)
        assert typed.code in ((0, 2, 5) if name in ("status.json", "resolved.yaml") else (0,)), (kind, typed)
    assert CANARY.read_text() == "alive"


# --- the source ------------------------------------------------------------------------------------------------------

FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.hub.load", "torch.jit.load", "yaml.load",
    "yaml.unsafe_load", "yaml.full_load", "os.system", "joblib.load", "marshal.loads", "shelve.open", "eval", "exec",
    "torch.serialization.add_safe_globals", "torch.serialization.safe_globals", "shutil.unpack_archive",
    "extract_archive", "download_and_extract_archive",
}  # fmt: skip


def dotted(function: ast.expr) -> str:
    """torch.hub.load, as it is written; nothing for what is called without a name."""
    parts: list[str] = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    return ".".join([function.id, *reversed(parts)]) if isinstance(function, ast.Name) else ""


def test_no_line_of_the_source_can_load_a_program():
    """`weights_only=True` stands written at every torch.load, never a variable; careless loaders are called nowhere."""
    loaders = ("pickle", "marshal", "torch", "torch.serialization")
    loads, hidden = 0, {"load", "loads", "Unpickler", "add_safe_globals", "safe_globals"}
    for path in sorted(Path(mlcli.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in loaders:
                assert not {alias.name for alias in node.names} & hidden, f"{path}:{node.lineno}"
            if not isinstance(node, ast.Call):
                continue
            name, given = dotted(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
            here = f"{path}:{node.lineno}: {name}"
            assert name not in FORBIDDEN, here
            assert not name.endswith(".extractall"), here
            if name == "torch.load":
                loads += 1
                assert getattr(given.get("weights_only"), "value", None) is True, here
            if name in ("np.load", "numpy.load"):
                assert getattr(given.get("allow_pickle"), "value", None) is False, here
            if name.startswith("subprocess."):
                assert "shell" not in given, here
    assert loads >= 1
