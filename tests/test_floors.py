"""The layers hold: imports only go down and never in a circle, tasks do not know each other, configs load no torch."""

import ast
import functools
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mlcli"
sys.path.insert(0, str(ROOT / "docs"))
LAYERS: list[tuple[str, ...]] = [names for names, _ in import_module("architecture").LAYERS]
"""From the top down; a module imports from layers below its own, and from its own package."""
HEAVY = {"torch", "torchvision", "numpy", "sklearn", "scipy", "PIL", "matplotlib", "tensorboard", "safetensors"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Return a file's dotted name: mlcli/engine/run.py -> "mlcli.engine.run"."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PATHS = {name_of(path): path for path in MODULES}


def package(module: str) -> str:
    """Return the package or module directly below mlcli: "mlcli.engine.run" -> "engine"."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def layer(module: str) -> int:
    return next(level for level, packages in enumerate(LAYERS) if package(module) in packages)


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Return all names a file imports, also inside functions and for type checkers; relative ones in full."""
    found: set[str] = set()
    inside = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]

    def visit(node: ast.AST) -> None:
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if top_level_only and isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = inside[: len(inside) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            below = {f"{base}.{alias.name}" for alias in node.names}
            found.update(below if below <= PATHS.keys() else {base, *below})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def ours(names: set[str]) -> set[str]:
    return names & PATHS.keys()


@functools.cache
def graph() -> dict[str, set[str]]:
    """Return what each module of the package imports of it. Made by the first test: reading all files takes seconds."""
    return {name: ours(imports(path)) - {name} for name, path in PATHS.items()}


def circle(uses: dict[str, set[str]]) -> list[str]:
    """Return one circle of a graph, empty if there is none."""
    try:
        TopologicalSorter(uses).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_there_are_modules():
    assert len(MODULES) > 60
    assert sum(map(len, graph().values())) > 300


def test_every_package_has_its_layer():
    assert {package(name) for name in PATHS} == {name for names in LAYERS for name in names}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_only_go_down(path):
    own = name_of(path)
    upward = {name for name in graph()[own] if layer(name) < layer(own)}
    aside = {name for name in graph()[own] if layer(name) == layer(own) and package(name) != package(own)}
    assert not upward | aside


def test_no_files_import_each_other_in_a_circle():
    assert circle(graph()) == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=lambda p: name_of(p / "__init__.py"))
def test_packages_beside_each_other_form_no_circle(folder):
    prefix = name_of(folder / "__init__.py") + "."
    below = [child.name for child in folder.iterdir() if (child / "__init__.py").exists()]

    def of(name: str) -> str:
        return name.removeprefix(prefix).split(".")[0] if name.startswith(prefix) else ""

    between = {
        child: {of(used) for name, uses in graph().items() if of(name) == child for used in uses if of(used) in below}
        - {child}
        for child in below
    }
    assert circle(between) == []


def test_a_circle_would_be_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []


@pytest.mark.parametrize("path", [p for p in MODULES if "tasks" in p.parts], ids=name_of)
def test_tasks_do_not_import_each_other(path):
    """What two tasks share lies directly in mlcli/tasks, or lower."""
    own = path.relative_to(PACKAGE / "tasks").parts[0]
    shared = {p.stem for p in (PACKAGE / "tasks").glob("*.py")}
    used = {name.split(".")[2] for name in graph()[name_of(path)] if name.startswith("mlcli.tasks.")}
    assert used <= shared | {own}


def test_models_know_data_only_by_its_facts():
    for path in (PACKAGE / "models").rglob("*.py"):
        used = {name for name in graph()[name_of(path)] if package(name) == "data"}
        assert used <= {"mlcli.data", "mlcli.data.info"}, path


TORCH_FREE = [
    "mlcli.cli",
    "mlcli.errors",
    "mlcli.text",
    "mlcli.experiment",
    "mlcli.engine.settings",
    "mlcli.data.info",
    *(name for name, path in PATHS.items() if path.name.startswith("config")),
    *(name for name in PATHS if name.startswith("mlcli.schema.")),
]


@pytest.mark.parametrize("module", TORCH_FREE)
def test_what_reads_configs_imports_nothing_heavy(module):
    reached, todo = set(), {module}
    while todo:
        reached |= todo
        names = {used for name in todo for used in imports(PATHS[name], top_level_only=True)}
        assert not {name.split(".")[0] for name in names} & HEAVY
        todo = ours(names) - reached


@pytest.mark.parametrize("module", [name for name, path in PATHS.items() if path.name.startswith("config")])
def test_configs_are_data(module):
    """A config class builds nothing and knows nobody who reads it."""
    tree = ast.parse(PATHS[module].read_text(encoding="utf-8"))
    assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "build"]
    assert not graph()[module] & {name for name in PATHS if name.endswith((".build", ".task", ".predictor"))}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], [], ["train", "--help"], ["train", "{broken}"], ["train", "{missing}"]],
    ids=["help", "first screen", "train help", "config error", "no file"],
)
def test_torch_is_not_loaded(arguments, tmp_path):
    (tmp_path / "broken.yaml").write_text("task: classification\nmodle: {name: mlp}\n")
    arguments = [a.format(broken=tmp_path / "broken.yaml", missing=tmp_path / "none.yaml") for a in arguments]
    program = (
        "import sys, mlcli.cli\n"
        "try: mlcli.cli.main()\n"
        "except SystemExit: pass\n"
        "loaded = {'torch', 'numpy', 'sklearn', 'torchvision'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 77)"
    )
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 77, result.stderr
