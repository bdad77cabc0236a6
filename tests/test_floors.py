"""The house stands: imports only go down, tasks do not know each other, and what needs no torch loads none."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mlcli"
FLOORS = [
    ("cli", "__main__"),
    ("commands",),
    ("report", "machine", "saved"),
    ("experiment",),
    ("tasks",),
    ("data", "models"),
    ("engine",),
    ("schema", "show"),
    ("files", "text"),
    ("errors", "__init__"),
]
"""From the roof down; a module imports from floors below its own, and from its own."""
HEAVY = {"torch", "torchvision", "numpy", "sklearn", "scipy", "PIL", "matplotlib", "tensorboard", "safetensors"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """ "mlcli.engine.run" -> "engine" """
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def floor(module: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if room(module) in rooms)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Modules a file imports; without those that only type checkers see."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def ours(names: set[str]) -> set[str]:
    known = {name_of(path) for path in MODULES}
    return {name for name in names if name in known}


def test_there_is_a_house():
    assert len(MODULES) > 60


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_only_go_down(path):
    upward = {name for name in ours(imports(path)) if floor(name) < floor(name_of(path))}
    assert not upward


@pytest.mark.parametrize("path", [p for p in MODULES if "tasks" in p.parts], ids=name_of)
def test_tasks_do_not_import_each_other(path):
    """What several of them share is `tasks/samples.py`, which knows none of them."""
    own = path.relative_to(PACKAGE / "tasks").parts[0].removesuffix(".py")
    known = {name.split(".")[2] for name in ours(imports(path)) if name.startswith("mlcli.tasks.")}
    assert known <= {own, "samples"}


def test_models_know_data_only_by_its_facts():
    for path in (PACKAGE / "models").rglob("*.py"):
        used = {name for name in ours(imports(path)) if room(name) == "data"}
        assert used <= {"mlcli.data", "mlcli.data.info"}, path


TORCH_FREE = [
    "mlcli.cli",
    "mlcli.errors",
    "mlcli.experiment",
    "mlcli.engine.settings",
    "mlcli.data.info",
    *(name_of(p) for p in MODULES if p.name.startswith("config")),
    *(name_of(p) for p in MODULES if "schema" in p.parts[:-1] and p.parent.name == "schema"),
]


@pytest.mark.parametrize("module", TORCH_FREE)
def test_what_reads_configs_imports_nothing_heavy(module):
    reached, todo = set(), {module}
    while todo:
        reached |= todo
        names = set()
        for name in todo:
            base = ROOT / name.replace(".", "/")
            path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
            names |= imports(path, top_level_only=True)
        assert not {name.split(".")[0] for name in names} & HEAVY
        todo = ours(names) - reached


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
