"""Run folders as a disk, another program or a stranger leaves them, through every command that looks into one."""

import json
import os
import random
import shutil
from pathlib import Path

from tests.reliability import hunt

JSON = ("status.json", "environment.json", "summary.json", "baselines.json", "evaluation-test.json")
LINES = ("metrics.jsonl", "layers.jsonl")
OTHERS = ("resolved.yaml", "config.yaml", "run.lock", "model.safetensors", "checkpoints", "pictures", "train", "val")
SPOILED = "runs/spoiled/only"


def commands(run: str) -> list[tuple[str, ...]]:
    """All that look into the spoiled run."""
    return [
        ("runs",),
        ("runs", "--json"),
        ("report", SPOILED),
        ("report", SPOILED),
        ("runs", "compare", SPOILED, f"runs/{run}/only"),
        ("runs", "compare", SPOILED, "runs/table/only", "--json"),
        ("evaluate", SPOILED),
        ("predict", SPOILED, hunt.RUNS[run], "-o", "new.csv"),
        ("train", "--resume", SPOILED, "train.epochs=2"),
    ]


def forge_json(path: Path, draw: random.Random) -> str:
    plain = json.loads(path.read_text())
    done = hunt.forge(plain, draw, hunt.ODD)
    path.write_text(json.dumps(plain))
    return done


def forge_lines(path: Path, draw: random.Random) -> str:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    done = hunt.forge(lines, draw, hunt.ODD) if lines else ""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return done


def put_aside(path: Path, draw: random.Random) -> str:
    """No file, or something that is none, in the place of a file."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    kind = draw.choice(["nothing", "a folder", "a loop", "a link to nowhere", "a file", "a name that is no text"])
    match kind:
        case "a folder":
            path.mkdir()
        case "a loop":
            path.symlink_to(path.name)
        case "a link to nowhere":
            path.symlink_to("/nowhere/at/all")
        case "a file":
            path.write_bytes(b"x")
        case "a name that is no text":
            Path(os.fsdecode(os.fsencode(path) + b"\xff")).mkdir()
    return kind


def spoil(folder: Path, case: int) -> tuple[str, str]:
    """Damage a copy of a run. Returns the run's name and what was done."""
    draw = random.Random(f"folder {case}")
    run = draw.choice([*hunt.RUNS])
    target, done = hunt.spoiled(folder, run), []
    for _ in range(draw.choice([1, 1, 2])):
        name = draw.choice([*JSON, *JSON, *LINES, *OTHERS])
        path = target / name
        if name in JSON and path.is_file() and draw.random() < 0.7:
            done.append(f"{name}: {forge_json(path, draw)}")
        elif name in LINES and path.is_file() and draw.random() < 0.6:
            done.append(f"{name}: {forge_lines(path, draw)}")
        elif path.is_file() and draw.random() < 0.6:
            path.write_bytes(hunt.damaged(path.read_bytes(), draw))
            done.append(f"{name}: damaged")
        else:
            done.append(f"{name}: {put_aside(path, draw)}")
    return run, "; ".join(done)


def test_any_run_folder_is_used_done_without_or_refused(world):
    faults, tried = [], hunt.cases(8, soak=2_000)
    for case in tried:
        run, done = "", "not JSON any more"
        try:
            run, done = spoil(world, case)
        except (ValueError, FileExistsError):  # a file spoiled twice
            continue
        draw = random.Random(f"commands {case}")
        for command in draw.sample(commands(run), 3):
            allowed = (0,) if command[:1] == ("runs",) and "compare" not in command else (0, 2, 4, 5, 6)
            if fault := hunt.fault_of(world, *command, allowed=allowed):
                faults.append(f"MLCLI_CASE={case} ({run}; {done}): {fault}")
    hunt.tell(faults, len(tried))
