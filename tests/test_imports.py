"""Dependencies point one way: tests -> benchmarks -> tools -> engine -> pipeline, and inside pipeline from the loader
down to the files."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_NOT_IMPORT = {
    "pipeline": {"engine", "tools", "benchmarks", "tests"},
    "engine": {"tools", "benchmarks", "tests"},
    "tools": {"benchmarks", "tests"},
    "benchmarks": {"tests"},
}
SOURCES = sorted(path for package in MAY_NOT_IMPORT for path in (ROOT / package).rglob("*.py"))
# The rooms of pipeline from the top down; those of one floor know nothing of one another.
FLOORS = (
    *(("loader",), ("train_plans", "finishing", "looking_ahead"), ("batch",)),
    *(("graph",), ("selection",), ("plan",), ("shards",), ("jpeg",), ("config",)),
    *(("ramps", "sources"), ("growth",), ("settings", "storage"), ("addresses",)),
    ("operations", "compiling", "cores", "crossing", "files", "installed", "program", "told", "yaml_file"),
)
MOST_FILES, MOST_LINES = 24, 400

# A schedule can be previewed, a plan made and shards indexed on a machine that has neither of these.
HEAVY = ("torch", "nvidia.dali")
# What takes seconds to load, or a good part of one. Help and the errors of a command line wait for none of it.
SLOW = (*HEAVY, "deepspeed", "timm", "numba", "matplotlib", "scipy", "pandas")
ENTRIES = (
    "engine.train",
    *(f"tools.{path.parent.name}.__main__" for path in sorted((ROOT / "tools").glob("*/__main__.py"))),
    *("tools.configuration", "tools.site"),
)
LIGHT_MODULES = (
    "plan.augmentation",
    "addresses",
    "config",
    "cores",
    "files",
    "growth",
    "operations",
    "plan.crops",
    "plan.echo",
    "plan.epochs",
    "plan.examples",
    "plan.erasing",
    "shards.exclusion",
    "plan.keyed",
    "selection.magnitude",
    "plan.mixing",
    "plan.order",
    "looking_ahead",
    "storage.shard_files",
    "graph.pixel_cache",
    "plan.step",
    "shards.reader",
    "graph.route",
    "installed",
    "plan.schedule",
    "plan.short_epochs",
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


def room_floor(module: str) -> tuple[str, int]:
    """The room of ``pipeline.ROOM...``, and its floor, counted from the top."""
    room = module.split(".")[1]
    (floor,) = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    return room, floor


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


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


@pytest.mark.parametrize(
    "path", sorted((ROOT / "pipeline").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_inside_pipeline_dependencies_point_down(path: Path) -> None:
    if path == ROOT / "pipeline" / "__init__.py":
        return
    room, floor = room_floor(module_name(path))
    for module in imported_modules(path.read_text(), module_name(path.parent)):
        if module.startswith("pipeline."):
            other, below = room_floor(module)
            assert other == room or below > floor, f"{module_name(path)} imports {module}"


def test_no_modules_import_one_another_in_a_circle() -> None:
    names = {module_name(path): path for path in SOURCES}
    imports = {
        name: {module for module in imported_modules(path.read_text(), name.rpartition(".")[0]) if module in names}
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        for module in sorted(imports[name] - done - {name}):
            visit(module, (*way, name))
        done.add(name)

    for name in sorted(names):
        visit(name, ())


def test_folders_are_rooms_and_files_are_short() -> None:
    for folder in {path.parent for path in SOURCES}:
        count = len(list(folder.glob("*.py")))
        assert count <= MOST_FILES, f"{folder.relative_to(ROOT)} holds {count} files"
    for path in SOURCES:
        lines = len(path.read_text().splitlines())
        assert lines <= MOST_LINES, f"{path.relative_to(ROOT)} has {lines} lines"


def test_only_tests_and_console_scripts_import_an_entry() -> None:
    importing = [
        str(path.relative_to(ROOT))
        for path in SOURCES
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


def test_no_entry_loads_what_takes_seconds_before_its_command_line_is_found_usable(tmp_path: Path) -> None:
    """One fresh interpreter for all: ``--help``, a misspelt key, a wrong value and a folder that is not there."""
    toy, nowhere = tmp_path / "toy.yaml", tmp_path / "nowhere"
    toy.write_text((ROOT / "configs" / "fashion_mnist.yaml").read_text())
    run = ["--config", str(toy)]
    misspelt, absent = [*run, "--set", "optim.lrr=1"], [*run, "--set", f"data.train={nowhere}"]
    steps = ["--step", "0"]
    wrong = {
        "engine.train": [
            misspelt,
            absent,
            [*run, "--max-steps", "0"],
            [*run, "--set", f"model.pretrained={nowhere}.pth"],
            [*run, "--set", "selection.rule=entropy"],
        ],
        "tools.agreement.__main__": [[str(nowhere)]],
        "tools.fisher.__main__": [[str(nowhere), "--out", f"{nowhere}.safetensors"]],
        "tools.fit.__main__": [[*run, "--budget", "2", "--profile", "p.json"], [*run, "--budget", "0.5"]],
        "tools.inspect.__main__": [[*misspelt, *steps], [*absent, *steps]],
        "tools.profile.__main__": [misspelt, absent, [*run, "--seconds", "0"]],
        "tools.report.__main__": [[str(nowhere)]],
        "tools.schedule.__main__": [misspelt, [*absent, "--set", "data.num_train_samples=null"]],
        "tools.shards.__main__": [["stats", str(nowhere)], ["verify", str(nowhere)]],
        "tools.study.__main__": [[str(nowhere)]],
        "tools.sweep.__main__": [[str(nowhere)], [str(nowhere), "--rules", "entropy"]],
    }
    program = f"""
import contextlib, importlib, io, sys
def code_of(main, arguments):
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return main(arguments)
    except SystemExit as ending:
        return ending.code
for name in {ENTRIES!r}:
    main = importlib.import_module(name).main
    for arguments in [["--help"], *{wrong!r}.get(name, [])]:
        code, loaded = code_of(main, arguments), [slow for slow in {SLOW!r} if slow in sys.modules]
        expected = 0 if arguments == ["--help"] else 2
        if loaded or code != expected:
            sys.exit(f"{{name}} {{arguments}} ends with {{code}} and loads {{loaded}}")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
