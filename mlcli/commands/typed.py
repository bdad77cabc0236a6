"""Command lines as they were typed: overrides told from the YAML, mistakes answered with the line that was meant.

No torch in here.
"""

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlcli.errors import ConfigError, UserError
from mlcli.text import command_line

VERBS = {"fit": "train", "test": "evaluate", "eval": "evaluate", "val": "evaluate", "validate": "evaluate",
         "infer": "predict", "resume": "train --resume", "list": "runs", "ls": "runs", "compare": "runs compare",
         "check": "data check", "convert": "data convert", "doctor": "env-check", "help": "--help",
         "version": "--version"}  # fmt: skip
"""What other tools call the commands."""
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212"
"""Hyphens and dashes that text programs make of `--`."""
MOST_RUNS = 4
"""Runs that a message lists; it has five lines."""
_KEY = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")

Options = Mapping[str, bool]
"""The options of a command, each with whether a value follows it."""


# --- arguments -------------------------------------------------------------------------------------------------------


def split_arguments(arguments: Sequence[str], command: Any) -> tuple[Path | None, list[str]]:
    """Separate the YAML (the argument without `=`) from overrides. Raises ConfigError for anything else."""
    # os.path's says no of a text too long for a file name; Path's raises.
    overrides = [text for text in arguments if "=" in text and not os.path.isfile(text)]
    files = [text for text in arguments if text not in overrides]
    refuse_mistyped(arguments, options_of(command))
    if len(files) > 1:
        fix = "an override needs a =, as in train.epochs=5"
        raise ConfigError(f"one YAML at a time, got {', '.join(files)}", fix=fix)
    return (Path(files[0]) if files else None), overrides


def refuse_mistyped(arguments: Sequence[str], options: Options) -> None:
    """Raise ConfigError with the right line where overrides are cut in pieces, or written with another sign than =."""
    if dashed := next((text for text in arguments if text[:1] and text[:1] in DASHES), None):
        fix = _meant(sys.argv[1:], options)
        raise ConfigError(f"{dashed} begins with a dash of a text program; options begin with --", fix=fix)
    joined = _joined(arguments)
    if joined != list(arguments):
        what = next(text for text in joined if text not in arguments)
        what = f"one override is one word: {shlex.quote(what)}, in quotes where it has blanks or brackets"
        raise ConfigError(what, where=f"mlcli {' '.join(sys.argv[1:])}", fix=_meant(sys.argv[1:], options))


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with overrides in one piece: `a = 1`, `a= 1`, `a =1`, `a: 1`, `a:1`, `a.b 1` and `a={b: 1}`."""
    words, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        if os.path.exists(word):
            words.append(word)
            continue
        after = rest[0] if rest and not os.path.isfile(rest[0]) else None
        if after is not None and _KEY.fullmatch(word) and after.startswith("="):  # a = 1, a =1
            word += rest.pop(0)
            after = rest[0] if rest and not os.path.isfile(rest[0]) else None
        colon = re.fullmatch(rf"({_KEY.pattern}):([^/\\].*)?", word)
        if colon and "." in colon[1] and "=" not in word:  # a.b:1, a.b: 1
            word = f"{colon[1]}={colon[2] or ''}"
        if after is not None and word.rstrip().endswith("=") and "=" not in after:  # a= 1
            word = word.rstrip() + rest.pop(0)
        elif after is not None and _is_key(word) and "=" not in after:  # a.b 1
            word += f"={rest.pop(0)}"
        for count in range(1, len(rest) + 1):  # a={b: 1}, which a shell cuts at its blanks
            if "=" in word and _depth(word) > 0 and _depth(" ".join([word, *rest[:count]])) == 0:
                word, rest = " ".join([word, *rest[:count]]), rest[count:]
                break
        words.append(word)
    return words


def _depth(text: str) -> int:
    """Count the brackets that are left open."""
    return sum(text.count(opening) - text.count(closing) for opening, closing in ("[]", "{}"))


def _is_key(word: str) -> bool:
    """Return whether a word is the dotted name of a key."""
    home, dot, key = word.rpartition(".")
    return bool(dot) and home in _homes().get(key, ())


def _homes() -> dict[str, list[str]]:
    """Each key of any task's YAML, and the sections that have it."""
    from mlcli.experiment import TASKS, config_type
    from mlcli.schema.explain import homes

    found: dict[str, dict[str, None]] = {}
    for task in TASKS:
        for key, sections in homes(config_type(task)).items():
            found.setdefault(key, {}).update(dict.fromkeys(sections))
    return {key: list(sections) for key, sections in found.items()}


def _key_of(option: str, *, exact: bool) -> str:
    """Return the key that an option such as `--epochs` stands for, `train.epochs`; "" if there is none."""
    from mlcli.schema.explain import SYNONYMS, closest

    name = option.strip("-").replace("-", "_").lower()
    if _is_key(name):
        return name
    homes, name = _homes(), SYNONYMS.get(name, name)
    name = name if exact or name in homes else closest(name, homes)
    if name not in homes or name == "name":
        return ""
    home = homes[name][0]
    return name if home == "the top level" else f"{home}.{name}"


def yaml_here() -> str:
    """Return the YAML of the working folder that is meant where none is named: config.yaml, or the only one."""
    found = [*Path().glob("*.yaml"), *Path().glob("*.yml")]
    return str(found[0]) if len(found) == 1 else "config.yaml"


def _meant(argv: Sequence[str], options: Options) -> str:
    """The whole line as it was probably meant; "" if some option of it stands for nothing that is known."""
    from mlcli.schema.explain import closest

    words = _command_words(argv)
    rest, arguments, kept = list(argv[len(words) :]), [], []
    while rest:
        word = rest.pop(0)
        if word[:1] in DASHES and word[:1]:
            word = f"--{word.lstrip(DASHES + '-')}"
        option, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            arguments.append(word)
        elif option in options:
            kept += [word] if equals or not (options[option] and rest) else [word, rest.pop(0)]
        else:
            key = _key_of(option, exact=True)
            # Without the dashes, which would make every two options alike.
            named = {name.removeprefix("--"): name for name in options if name.startswith("--")}
            near = "" if key else named.get(closest(option.lstrip("-"), named), "")
            key = key or ("" if near else _key_of(option, exact=False))
            if not (key or near):
                return ""
            takes_value = options[near] if near else True
            if not equals and takes_value and rest and not os.path.isfile(rest[0]) and rest[0][:1] not in ("-", ""):
                value, equals = rest.pop(0), "="
            if near:
                kept += [near, value] if equals else [near]
            else:
                arguments.append(f"{key}={value if equals else 'true'}")
    arguments = _joined(arguments)
    if any("=" in text for text in arguments) and all("=" in text for text in arguments) and "--resume" not in kept:
        arguments = [yaml_here(), *arguments]
    return command_line(" ".join(words), *arguments, *kept)


# --- usage -----------------------------------------------------------------------------------------------------------


def options_of(command: Any) -> dict[str, bool]:
    """Return the options of a command of typer's, each with whether a value follows it."""
    own = {option: not param.is_flag for param in command.params for option in param.opts if option.startswith("-")}
    return {**own, "--help": False, "-h": False}


def explained(error: Any, command: Any) -> UserError:
    """Return the answer to a line that typer cannot read. error: typer's; command: the one typed, as far as known."""
    argv = sys.argv[1:]
    root = Path(argv[argv.index("--out") + 1]) if "--out" in argv[:-1] else Path("runs")
    name = " ".join(_command_words(argv))
    match type(error).__name__:
        case "NoSuchOption":
            return _unknown_option(error.option_name, argv, command)
        case "BadOptionUsage" if error.option_name == "--resume":
            return ConfigError("which run?", where="--resume", fix=unfinished(root))
        case "BadOptionUsage":
            others = [text for text in argv[1:] if text != error.option_name]
            fix = command_line(name, *others, error.option_name, "VALUE")
            return ConfigError(f"{error.option_name} needs a value", fix=fix)
        case "MissingParameter" if error.param.name == "run":
            return _which_run(name, root)
        case "NoArgsIsHelpError":
            return ConfigError(f"mlcli {name} needs one of {', '.join(command.commands)}", fix=f"mlcli {name} --help")
    if getattr(command, "commands", None) and "No such command" in error.format_message():
        return _unknown_command(error.format_message().split("'")[1], argv, list(command.commands))
    return ConfigError(error.format_message(), where=f"mlcli {name}", fix=f"mlcli {name} --help".replace("  ", " "))


def _command_words(argv: Sequence[str]) -> Sequence[str]:
    return argv[: 2 if argv[:1] in (["data"], ["runs"]) else 1]


def _unknown_option(option: str, argv: Sequence[str], command: Any) -> UserError:
    options = options_of(command)
    takes_keys = any("KEY=VALUE" in (getattr(param, "metavar", None) or "") for param in command.params)
    word = next((text for text in argv if text.startswith(option)), option).partition("=")[0]
    fix = _meant(argv, options) if word not in _command_words(argv) else ""
    if not takes_keys and "=" in fix:
        fix = ""
    known = ", ".join(name for name in options if name.startswith("--"))
    what = f"no option {word}" + ("; keys of the YAML are set as key=value" if takes_keys else "")
    return ConfigError(what, where=f"mlcli {' '.join(_command_words(argv))}", fix=fix or f"there are: {known}")


def _unknown_command(word: str, argv: Sequence[str], commands: Sequence[str]) -> UserError:
    from mlcli.schema.explain import closest

    before, rest = argv[: argv.index(word)], list(argv[argv.index(word) + 1 :])
    meant = "" if before else VERBS.get(word.lower(), "")
    if Path(word).suffix in (".yaml", ".yml"):
        meant, rest = "train", [word, *rest]
    meant = meant or " ".join([*before, closest(word, commands)]).strip()
    fix = command_line(meant, *rest) if meant else "mlcli lists the commands"
    return ConfigError(f"there is no command {word}", fix=fix)


def unfinished(root: Path) -> str:
    """Return the commands that go on with runs that were stopped, the newest first, a line each."""
    from mlcli.engine.documents import UNFINISHED
    from mlcli.engine.run import list_runs

    lines = []
    for run in reversed(list_runs(root)):
        with contextlib.suppress(UserError, OSError):
            status = run.status()
            if (state := status.get("state")) in UNFINISHED:
                done = f"{state} after epoch {status.get('epoch') or 0} of {status.get('epochs') or '?'}"
                lines.append(f"{command_line('train', '--resume', run.name)}   # {done}")
    if not lines:
        return f"no run in {root}/ was stopped; mlcli runs lists all"
    more = [f"and {len(lines) - MOST_RUNS + 1} more: mlcli runs"] if len(lines) > MOST_RUNS else []
    return "\n       ".join([*lines[: MOST_RUNS - len(more)], *more])


def _which_run(command: str, root: Path) -> UserError:
    from mlcli.engine.run import list_runs

    names = list(dict.fromkeys(run.path.parent.name for run in reversed(list_runs(root))))
    fix = command_line(command, names[0]) if names else "mlcli init digits && mlcli train config.yaml"
    others = f"   (or {', '.join(names[1:MOST_RUNS])})" if names[1:] else ""
    return ConfigError("which run?", where=f"mlcli {command}", fix=fix + others)
