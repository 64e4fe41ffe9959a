"""Tries the lowest and the newest of everything that pyproject.toml allows, on every Python that is here.

    python -m tools.versions [python3.11-lowest-cuda12 ...] [--tests tests/pipeline ...]

Each environment is made under build/versions: some 7 GB. One that is there is used again, and one in which all went
well is removed. The tests run in it, and 20 steps are trained on Fashion-MNIST. Tests that start processes of their own
run in the last one only. What came of it is written to benchmarks/results/versions.json and, as a table, to
docs/install.md. Start from the project's root; logs stay in build/versions.

Exit codes: 0 all passed, 1 something failed or could not be installed, 2 a name of no environment (one line on stderr
says which there are).
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement

from pipeline.files import write_atomically
from pipeline.installed import DALI_BUILDS

PYTHONS = ("3.11", "3.12", "3.13")
ENDS = {"lowest": "cuda12", "newest": "cuda13"}  # and the build of DALI that is tried with it
RESULTS, PAGE = Path("benchmarks/results/versions.json"), Path("docs/install.md")
SHOWN = {
    "torch": "PyTorch",
    "deepspeed": "DeepSpeed",
    "timm": "timm",
    "numpy": "NumPy",
    "numba": "numba",
    "pillow": "Pillow",
}
STEPS = 20

_PROJECT = "patch-sampling-trainer"
_STARTS_PROCESSES = re.compile(r"\blaunching\b|\bsubprocess\b")
_TABLE = re.compile(r"(<!-- python -m tools\.versions -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Environment:
    """One Python, with the lowest or the newest of everything."""

    python: str
    end: str

    @property
    def group(self) -> str:
        return ENDS[self.end]

    @property
    def name(self) -> str:
        return f"python{self.python}-{self.end}-{self.group}"


ENVIRONMENTS = {one.name: one for python in PYTHONS for one in (Environment(python, end) for end in ENDS)}
WHOLE = list(ENVIRONMENTS)[-1]  # where tests that start processes run, too


@dataclass
class Outcome:
    """What came of one environment.

    Attributes:
        packages: versions by name of what pyproject.toml names.
        tests: which were run.
        counts: of tests, by passed, failed and skipped.
        failed: names of tests.
        skipped: reasons, with the number of tests.
        loss: of the last step trained; None where training failed.
        problem: why it was left, empty if it was not.
    """

    environment: str
    packages: dict[str, str] = field(default_factory=dict)
    tests: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    loss: float | None = None
    problem: str = ""

    @property
    def is_well(self) -> bool:
        return not self.problem and not self.failed and self.loss is not None


def requirements(project: Path) -> list[Requirement]:
    """What pyproject.toml names, whatever the group, but for the project itself."""
    found = tomllib.loads(project.read_text())["project"]
    lines = [*found["dependencies"], *(line for group in found["optional-dependencies"].values() for line in group)]
    return [one for one in map(Requirement, lines) if one.name != _PROJECT]


def lowest(found: Sequence[Requirement]) -> list[str]:
    """The lower ends of ranges as pip's constraints."""
    ends = {one.name: part.version for one in found for part in one.specifier if part.operator == ">="}
    return [f"{name}=={version}" for name, version in ends.items()]


def files_of(path: Path, *, starting_processes: bool) -> list[Path]:
    """A file of tests, or those of a folder, sorted; those that start processes, by their text, if they are wanted."""
    files = sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
    return [one for one in files if starting_processes or not _STARTS_PROCESSES.search(one.read_text())]


def read_junit(text: str) -> tuple[dict[str, int], list[str], dict[str, int]]:
    """Counts, names of failed tests, and reasons of skipped ones, of pytest's ``--junitxml``."""
    failed, reasons, cases = [], Counter[str](), list(ElementTree.fromstring(text).iter("testcase"))
    for case in cases:
        if (why := case.find("skipped")) is not None:
            reasons[why.get("message", "")] += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
    skipped = sum(reasons.values())
    counts = {"passed": len(cases) - skipped - len(failed), "failed": len(failed), "skipped": skipped}
    return counts, failed, dict(reasons)


def find_python(minor: str) -> dict[str, str] | None:
    """The environment variables in which ``python3.X`` runs; None where it does not. pyenv knows some by a variable."""
    command = f"python{minor}"
    if shutil.which(command) is None:
        return None
    listed = []
    if shutil.which("pyenv"):
        done = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True)
        listed = [version for version in done.stdout.split() if version.startswith(f"{minor}.")]
    for variables in (dict(os.environ), *(os.environ | {"PYENV_VERSION": version} for version in listed)):
        done = subprocess.run(
            [command, "-c", "import venv"], env=variables, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return variables
    return None


def try_environment(environment: Environment, folder: Path, only: Sequence[Path] = ()) -> Outcome:
    """Make an environment in a folder, run the tests in it and train. Nothing that fails there is an exception here.

    Args:
        only: files and folders of tests; none: all that are for this environment.
    """
    outcome = Outcome(environment.name)
    log, venv = folder / environment.name, (folder / environment.name).absolute()
    python = venv / "bin" / "python"
    if (variables := find_python(environment.python)) is None:
        outcome.problem = f"python{environment.python} is not here"
        return outcome
    variables |= {
        "PATH": f"{python.parent}:{variables['PATH']}",
        "PYTHONPATH": str(Path.cwd()),
        "NUMBA_CACHE_DIR": str(venv / "numba"),
    }

    def run(what: str, *command: str | Path) -> bool:
        print(f"{environment.name}: {what}", file=sys.stderr, flush=True)
        with log.with_name(f"{log.name}.{what}.log").open("w") as sink:
            return subprocess.run(command, env=variables, stdout=sink, stderr=sink, check=False).returncode == 0

    constraints = log.with_name(f"{log.name}.txt")
    pins = lowest(requirements(Path("pyproject.toml"))) if environment.end == "lowest" else []
    constraints.write_text("\n".join(pins))
    if not python.exists() and not run("venv", f"python{environment.python}", "-m", "venv", venv):
        outcome.problem = "no virtual environment could be made"
        return outcome
    if not run("install", python, "-m", "pip", "install", "-c", constraints, "-e", f".[{environment.group},test]"):
        outcome.problem = f"pip could not install it: see {log}.install.log"
        return outcome
    outcome.packages = _versions(python)
    _test(run, python, log.with_name(f"{log.name}.xml"), only, outcome)
    outcome.loss = _trained(run, python, log.with_name(f"{log.name}.run"))
    return outcome


def _test(run: Callable[..., bool], python: Path, junit: Path, only: Sequence[Path], outcome: Outcome) -> None:
    whole = outcome.environment == WHOLE
    tests = [file for path in only or [Path("tests")] for file in files_of(path, starting_processes=whole)]
    among = f" in {', '.join(map(str, only))}" if only else ""
    outcome.tests = f"all{among}" if whole else f"those that start no processes{among}"
    junit.unlink(missing_ok=True)
    # What failed is in the file, so that pytest's exit code says nothing new.
    run("tests", python, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not gpu", f"--junitxml={junit}", *tests)
    if not junit.exists():
        outcome.problem = f"the tests could not run: see {junit.with_suffix('.tests.log')}"
        return
    outcome.counts, outcome.failed, outcome.skipped = read_junit(junit.read_text())


def _versions(python: Path) -> dict[str, str]:
    done = subprocess.run([python, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True)
    names = {one.name.lower() for one in requirements(Path("pyproject.toml"))}
    installed = {one["name"].lower(): one["version"] for one in json.loads(done.stdout)}
    number = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    return {"python": number} | {name: version for name, version in sorted(installed.items()) if name in names}


def _trained(run: Callable[..., bool], python: Path, folder: Path) -> float | None:
    """The loss of the last of some steps on Fashion-MNIST; None if they were not trained."""
    shutil.rmtree(folder, ignore_errors=True)
    config = ("--config", "configs/fashion_mnist.yaml", "--out", folder)
    if not run("training", python, "-m", "engine.train", *config, "--max-steps", str(STEPS)):
        return None
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "train"][-1]


def table(outcomes: Sequence[Outcome]) -> str:
    """Outcomes as a table in Markdown, a row each."""
    head = ["Python", "DALI", *SHOWN.values(), "tests", f"loss after {STEPS} steps"]
    rows = [head, ["---"] * len(head)]
    for one in outcomes:
        environment = ENVIRONMENTS[one.environment]
        if one.problem:
            rows.append([f"{environment.python}, {environment.end}", one.problem, *[""] * (len(head) - 2)])
            continue
        build = next(name for name in one.packages if name in DALI_BUILDS)
        tests = ", ".join(f"{count} {what}" for what, count in one.counts.items() if count)
        rows.append(
            [
                f"{one.packages['python']}, {environment.end}",
                f"{one.packages[build]} (`{environment.group}`)",
                *(one.packages[name] for name in SHOWN),
                f"{one.tests}: {tests}",
                "failed" if one.loss is None else f"{one.loss:.4f}",
            ]
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def page_with(page: str, outcomes: Sequence[Outcome]) -> str:
    """The page with the table of all environments in its place, those that were not run included.

    Raises:
        ValueError: the page has no place for it.
    """
    if len(_TABLE.findall(page)) != 1:
        raise ValueError(f"{PAGE} has not one place for the table: <!-- python -m tools.versions --> to <!-- end -->")
    known = {one.environment: one for one in outcomes}
    rows = table([known.get(name, Outcome(name, problem="not run")) for name in ENVIRONMENTS])
    return _TABLE.sub(lambda found: f"{found[1]}{rows}{found[2]}", page)


def read_outcomes(text: str) -> list[Outcome]:
    """What ``RESULTS`` holds."""
    return [Outcome(**one) for one in json.loads(text)["environments"]]


def write(outcomes: Sequence[Outcome]) -> None:
    """Put outcomes in the place of those of the same environments, in the raw result and in the table of the page."""
    old = read_outcomes(RESULTS.read_text()) if RESULTS.exists() else []
    known = {one.environment: one for one in [*old, *outcomes]}
    both = [known[name] for name in ENVIRONMENTS if name in known]
    found = {"command": "python -m tools.versions", "environments": [asdict(one) for one in both]}
    write_atomically(RESULTS, json.dumps(found, indent=1) + "\n", sync=False)
    write_atomically(PAGE, page_with(PAGE.read_text(), both), sync=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the environments that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tools.versions", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ENVIRONMENTS)} (default: all)")
    parser.add_argument("--tests", nargs="+", type=Path, default=[], metavar="PATH", help="only these files or folders")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in ENVIRONMENTS]:
        print(f"error: {', '.join(unknown)}: the environments are {', '.join(ENVIRONMENTS)}", file=sys.stderr)
        return 2
    folder = Path("build/versions")
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for name in options.names or ENVIRONMENTS:
        outcomes.append(try_environment(ENVIRONMENTS[name], folder, options.tests))
        write(outcomes)
        if outcomes[-1].is_well:
            shutil.rmtree(folder / name)
        print(table(outcomes[-1:]), flush=True)
    return 0 if all(one.is_well for one in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
