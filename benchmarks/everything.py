"""Run every benchmark, one after the other, and write their tables into one Markdown file and onto the docs' page.

Each script's output is a section of its own, in place of the one it had; those of scripts that did not run stay. A
script that fails or takes too long is named at the end and its old section stays, too. All of it takes most of an hour
on two cores. The GPU script runs where there is a GPU.

    python benchmarks/everything.py [--only startup ...] [--output benchmarks/results.md] [--page docs/performance.md]
"""

import argparse
import ast
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mlcli.engine.limits import spin_briefly

HERE = Path(__file__).parent
BEGIN, END = "<!-- results of make bench -->", "<!-- end of results -->"
BEGIN_DETECTION = "<!-- results of detection_minutes.py -->"
HEAD = """# Results

One section a script, each with the machine and the date; figures of different sections are not comparable.
`make bench` runs all of them.
"""


@dataclass(frozen=True)
class Script:
    """name: of the file, without .py. limit_s: seconds after which it is ended; about three times what it takes."""

    name: str
    arguments: tuple[str, ...] = ()
    limit_s: float = 180

    @property
    def title(self) -> str:
        """`startup.py: How long until something happens`"""
        says = ast.get_docstring(ast.parse((HERE / f"{self.name}.py").read_text())) or ""
        first = re.split(r"[.?](?:\s|$)", says.split("\n\n")[0].replace("\n", " "))[0]
        return f"{self.name}.py: {first[:1].lower()}{first[1:]}" + (f" ({self.shown})" if self.shown else "")

    @property
    def shown(self) -> str:
        return " ".join(self.arguments)

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(HERE / f"{self.name}.py"), *self.arguments]


DETECTION = Script("detection_minutes", ("--show", "--picture", "docs/detection-minutes.png"))
"""It takes hours and is started by hand; here it shows what it has measured so far."""
SCRIPTS = (
    Script("startup"),
    Script("loader_in_ram"),
    Script("loader_folders", limit_s=400),
    Script("trainer_overhead", ("--steps", "600", "--rounds", "4"), limit_s=400),
    Script("trainer_overhead", ("--model", "vgg", "--steps", "20", "--rounds", "3", "--only", "mlcli"), limit_s=300),
    Script("tensorboard_cost", ("--seconds", "6", "--rounds", "3"), limit_s=400),
    Script("layout", ("--rounds", "3", "--steps", "1"), limit_s=400),
    Script("checkpoint"),
    Script("nms"),
    Script("region_align"),
    Script("detection_training", ("--rounds", "3", "--steps", "6"), limit_s=300),
    DETECTION,
    Script("scaling", ("--seconds", "1.5", "--rounds", "2", "--batches", "16", "128", "1024"), limit_s=400),
    Script("several_processes", ("--seconds", "2", "--rounds", "3"), limit_s=2000),
    Script("shards", limit_s=1500),
    Script("gpu", limit_s=600),
)


def sections_of(text: str) -> dict[str, str]:
    """Section by the script and arguments of its heading, in order; what stands before the first is left out."""
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)[1:]
    return {_key(title): f"## {title}\n{body.rstrip()}\n" for title, body in zip(parts[::2], parts[1::2], strict=True)}


def _key(title: str) -> str:
    """`startup.py: how long ... (--rounds 5)` -> `startup.py --rounds 5`"""
    name, _, rest = title.partition(":")
    arguments = re.search(r" \((--.*)\)$", rest)
    return f"{name} {arguments[1]}" if arguments else name


def section(script: Script, output: str) -> str:
    """A script's output below its heading; tables as they are, all else as it was printed."""
    body = output.strip() if re.search(r"^\| ?---", output, re.MULTILINE) else f"```\n{output.strip()}\n```"
    return f"## {script.title}\n\n{body}\n"


def put_between(page: str, content: str, begins: str = BEGIN) -> str:
    """The page with `content` between the mark that begins it and END. Raises SystemExit for a page without them."""
    before, begin, rest = page.partition(begins)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"the page lacks the lines {begins} and {END}")
    return f"{before}{begins}\n\n{content.strip()}\n\n{END}{after}"


def on_detection_page(results: str) -> str:
    """What all detectors come to in the same time, without its heading; empty where it has not been measured."""
    found = sections_of(results).get(_key(DETECTION.title), "")
    return found.partition("\n")[2].strip()


def on_page(results: str) -> str:
    """The sections of the results as the docs' page shows them: one level lower, pictures found from there."""
    lower = "\n".join(re.sub("^##", "###", text, flags=re.MULTILINE) for text in sections_of(results).values())
    return re.sub(r"!\[(.*?)\]\(", r"![\1](../benchmarks/", lower)


def run(script: Script) -> tuple[str, str]:
    """What it printed, and what went wrong, if anything did."""
    try:
        done = subprocess.run(script.command, capture_output=True, text=True, timeout=script.limit_s, cwd=HERE.parent)
    except subprocess.TimeoutExpired:
        return "", f"it took longer than {script.limit_s:.0f} s"
    if done.returncode:
        return done.stdout, (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    return done.stdout, ""


def has_gpu() -> bool:
    program = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", program]).returncode == 0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", nargs="*", help="names of scripts; all unless given")
    arguments.add_argument("--output", type=Path, default=HERE / "results.md")
    arguments.add_argument("--page", type=Path, default=HERE.parent / "docs/performance.md")
    arguments.add_argument("--detection-page", type=Path, default=HERE.parent / "docs/detection.md")
    chosen = arguments.parse_args()
    spin_briefly()  # as `mlcli` itself does; the scripts inherit it, and all they compare
    wanted = [script for script in SCRIPTS if not chosen.only or script.name in chosen.only]
    sections = sections_of(chosen.output.read_text()) if chosen.output.exists() else {}
    failed, all_began = [], time.monotonic()
    for script in wanted:
        if script.name == "gpu" and not has_gpu():
            print("gpu: no GPU here, left out", flush=True)
            continue
        began = time.monotonic()
        print(f"{script.name} {script.shown}", end=" ... ", flush=True)
        output, trouble = run(script)
        print(trouble or "done", f"({time.monotonic() - began:.0f} s)", flush=True)
        if trouble:
            failed.append(f"{script.name}: {trouble}")
            continue
        for old in [key for key in sections if key.split()[0] == f"{script.name}.py" and key not in _known()]:
            del sections[old]  # of a time when it ran with other arguments
        sections[_key(script.title)] = section(script, output)
        chosen.output.write_text("\n".join([HEAD, *_in_order(sections)]))
        results = chosen.output.read_text()
        chosen.page.write_text(put_between(chosen.page.read_text(), on_page(results)))
        if script == DETECTION:
            page = chosen.detection_page
            page.write_text(put_between(page.read_text(), on_detection_page(results), BEGIN_DETECTION))
    print(f"{time.monotonic() - all_began:.0f} s in all")
    if failed:
        raise SystemExit("\n".join(["these kept their old section:", *failed]))


def _known() -> set[str]:
    return {_key(script.title) for script in SCRIPTS}


def _in_order(sections: dict[str, str]) -> list[str]:
    """Scripts as they run, then what nobody runs any more."""
    order = [_key(script.title) for script in SCRIPTS]
    return [sections[key] for key in sorted(sections, key=lambda key: order.index(key) if key in order else len(order))]


if __name__ == "__main__":
    main()
