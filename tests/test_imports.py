"""Dependencies point one way: tools -> engine -> pipeline."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_NOT_IMPORT = {"pipeline": {"engine", "tools", "tests"}, "engine": {"tools", "tests"}, "tools": {"tests"}}
SOURCES = sorted(path for package in MAY_NOT_IMPORT for path in (ROOT / package).rglob("*.py"))

# A schedule can be previewed, a plan made and shards indexed on a machine that has neither of these.
HEAVY = ("torch", "nvidia.dali")
LIGHT_MODULES = (
    "plan.augmentation",
    "config",
    "plan.crops",
    "plan.echo",
    "plan.erasing",
    "shards.exclusion",
    "plan.keyed",
    "selection.magnitude",
    "plan.mixing",
    "plan.order",
    "graph.pixel_cache",
    "plan.step",
    "shards.reader",
    "graph.route",
    "plan.schedule",
    "selection.rules",
    "shards.index",
    "selection.snapshots",
    "shards.tars",
)


def imported_modules(source: str, package: str) -> set[str]:
    """Full names of all modules that a file imports, anywhere in it. ``package``: where relative imports start."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def test_imports_are_found_in_all_their_forms() -> None:
    source = """
import a.b as c
from d import e
from . import f
from ..g import h
def later():
    import i
"""
    found = imported_modules(source, package="top.sub")
    assert {"a.b", "d", "d.e", "top.sub.f", "top.g", "top.g.h", "i"} <= found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path: Path) -> None:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    forbidden = MAY_NOT_IMPORT[path.relative_to(ROOT).parts[0]]
    wrong = {
        module for module in imported_modules(path.read_text(), package) if any(is_in(module, f) for f in forbidden)
    }
    assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_only_tests_and_console_scripts_import_an_entry() -> None:
    importing = [
        str(path.relative_to(ROOT))
        for path in (*SOURCES, *sorted((ROOT / "benchmarks").rglob("*.py")))
        for module in imported_modules(path.read_text(), ".".join(path.relative_to(ROOT).parent.parts))
        if "__main__" in module.split(".")
    ]
    assert not importing, f"{', '.join(importing)}: what others import belongs in a file beside __main__.py"


@pytest.mark.parametrize("name", LIGHT_MODULES)
def test_light_modules_name_neither_torch_nor_dali(name: str) -> None:
    path = ROOT / "pipeline" / f"{name.replace('.', '/')}.py"
    imported = imported_modules(path.read_text(), "pipeline")
    assert not [module for module in imported if any(is_in(module, heavy) for heavy in HEAVY)]


def test_light_modules_load_neither_torch_nor_dali_at_run_time() -> None:
    """Not through a third module either. One fresh interpreter for all: what one of them loads is seen by name."""
    program = f"""
import importlib, sys
for name in {LIGHT_MODULES!r}:
    importlib.import_module("pipeline." + name)
    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
    if loaded:
        sys.exit(f"importing pipeline.{{name}} loads {{loaded}}")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
