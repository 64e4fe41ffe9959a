"""The page about an acceptance, made from what its stages left in their folders. Loads nothing that is slow."""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.files import write_atomically

_OVER_ITS_LIMIT = (124, 137)  # exit codes of ``timeout``
_UNABLE = "needs a GPU"


class Found(NamedTuple):
    """What a stage says of itself: lines of figures, its problems, and why it was skipped, if it was."""

    figures: list[str]
    problems: Sequence[str] = ()
    skipped: str | None = None


class StageResult(NamedTuple):
    """One line of the page. ``outcome``: passed, failed, skipped or not run."""

    stage: str
    outcome: str
    reason: str
    seconds: float | None
    figures: list[str]


def write_page(folder: Path) -> tuple[str, bool]:
    """``summary.md`` and ``summary.json`` of the stages in a folder.

    Returns:
        The page, and whether no stage that was run failed and at least one was.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; name the --out of tools/gpu_acceptance.sh")
    results = [stage_result(folder, stage) for stage in STAGES]
    environment = _read(folder / "environment" / "environment.json") or {}
    text = page(results, environment)
    summary = {
        "card": card_of(environment),
        "stages": [result._asdict() for result in results],
        "environment": environment,
    }
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1) + "\n", sync=False)
    write_atomically(folder / "summary.md", text + "\n", sync=False)
    outcomes = {result.outcome for result in results}
    return text, "failed" not in outcomes and "passed" in outcomes


def stage_result(folder: Path, stage: str) -> StageResult:
    """What a stage left behind, judged."""
    ended = _read(folder / stage / "ended.json")
    if ended is None:
        return StageResult(stage, "not run", "", None, [])
    code, seconds = ended["exit_code"], ended["seconds"]
    found = STAGES[stage](folder / stage)
    reason = "; ".join(found.problems)
    if code in _OVER_ITS_LIMIT:
        reason = f"over its limit of {ended['limit_s']} s" + (f"; {reason}" if reason else "")
        return StageResult(stage, "failed", reason, seconds, found.figures)
    if code:
        reason = reason or f"exit code {code}; see {stage}/log.txt"
        return StageResult(stage, "failed", reason, seconds, found.figures)
    if found.problems:
        return StageResult(stage, "failed", reason, seconds, found.figures)
    if found.skipped is not None:
        return StageResult(stage, "skipped", found.skipped, seconds, found.figures)
    return StageResult(stage, "passed", "", seconds, found.figures)


def card_of(environment: Mapping[str, Any]) -> str:
    """The GPU, or what stands for it."""
    return environment.get("torch", {}).get("name") or "no GPU"


def page(results: Sequence[StageResult], environment: Mapping[str, Any]) -> str:
    """All of it as Markdown."""
    machine, driver = environment.get("machine", {}), environment.get("driver", {})
    versions = ", ".join(
        f"{name} {value}"
        for name, value in machine.items()
        if name == "python" or name == "torch" or name == "deepspeed" or name.startswith("nvidia-dali")
    )
    lines = [
        f"# Acceptance on {card_of(environment)}",
        "",
        f"Driver {driver.get('driver_version', 'none')}; {machine.get('cores', '?')} cores of "
        f"{machine.get('cpu', '?')}; {versions or 'versions unknown'}.",
        "",
        "| stage | outcome | seconds | why |",
        "|---|---|---|---|",
    ]
    for result in results:
        seconds = "" if result.seconds is None else f"{result.seconds:.0f}"
        lines.append(f"| {result.stage} | {result.outcome} | {seconds} | {result.reason.replace('|', '/')} |")
    for result in results:
        if result.figures:
            lines += ["", f"## {result.stage}", "", "```text", *result.figures, "```"]
    return "\n".join(lines)


def _environment(folder: Path) -> Found:
    found = _read(folder / "environment.json")
    if found is None:
        return Found([])
    shown = [f"{name}: {facts}" for name, facts in found.items() if isinstance(facts, dict)]
    return Found([*shown, *_left_out(found)], found["problems"])


def _tests(folder: Path) -> Found:
    path = folder / "junit.xml"
    if not path.exists():
        return Found([])
    suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    total, skipped, failed, broken = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "skipped", "failures", "errors")
    )
    passed = total - skipped - failed - broken
    bad = [
        f"{case.get('classname')}.{case.get('name')}"
        for suite in suites
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    nothing = _UNABLE if skipped and skipped == total else None
    return Found([f"{passed} passed, {skipped} skipped, {failed + broken} failed"], bad, nothing)


def _smoke(folder: Path) -> Found:
    found = _read(folder / "smoke.json")
    if found is None:
        return Found([])
    lines = []
    for run in found["runs"]:
        if run["losses"]:
            first, last = run["losses"][0], run["losses"][-1]
            lines.append(f"{run['run']:28} {run['seconds']:6.1f} s  loss {first:.4f} to {last:.4f}")
    for one in found["precisions"]:
        lines.append(
            f"{one['run']} beside {one['beside']}: mean losses {one['mean_apart']:.2%} apart, "
            f"of a step up to {one['most_apart']:.2%}"
        )
    for one in found["resumed"]:
        how = "the same losses to the bit" if one["exact"] else f"losses up to {one['most_apart']:.3%} apart"
        lines.append(f"{one['run']}: stopped and gone on, {how}")
    return Found([*lines, *_left_out(found)], found["problems"])


def _update(folder: Path) -> Found:
    found = _read(folder / "update.json")
    if found is None:
        return Found([])
    lines = [f"{found['model']}, {found['parameters']} parameters, batches of {found['batch_size']}"]
    lines.append(f"{'':14} {'operations':>10} {'launches':>8} {'waits':>5} {'host ms':>8} {'device ms':>9}")
    for one in found["updates"]:
        for name, cost in (("step", one["step"]), ("whole", one["whole"])):
            lines.append(
                f"{one['run'] if name == 'step' else '  with clipping':14} {cost['operations']:10} "
                f"{cost['launches']:8} {sum(cost['waits'].values()):5} {cost['host_ms']:8.2f} {cost['device_ms']:9.2f}"
            )
    if not found["judged"]:
        lines.append("on a CPU: counted, not judged")
    return Found(lines, found["problems"])


def _loader(folder: Path) -> Found:
    found = _read(folder / "loader.json")
    if found is None:
        return Found([])
    lines = [
        f"data.device {one['device']}, {one['threads']:2} threads, keep rate {one['keep_rate']:g}: "
        f"{one['images_per_s']:9,.0f} images/s"
        for one in found["loader"]
    ]
    return Found([*lines, *_left_out(found)], found["problems"])


def _profile(folder: Path) -> Found:
    """What tools.profile has printed, but for what libraries say."""
    lines = []
    for path in sorted(folder.glob("decoded-on-*.txt")):
        printed = [line for line in path.read_text().splitlines() if not line.startswith("[")]
        lines += [path.stem, *printed] if printed else []
    return Found(lines)


def _step(folder: Path) -> Found:
    lines = []
    for path in sorted(folder.glob("*.json")):
        found = _read(path) or {}
        if "steps" not in found:
            continue
        lines.append(f"{found['model']}, {found['precision']}, batches of {found['batch_size']}")
        for one in found["steps"]:
            versus = one["speed_over_timm"]["median"]
            step_ms = 1000 * one["step_s"]["median"]
            lines.append(f"  {one['num_kept']:4} patches  {one['way']:16} {step_ms:8.1f} ms  {versus:5.2f} x timm")
    return Found(lines)


def _left_out(found: Mapping[str, Any]) -> list[str]:
    return [f"skipped, {_UNABLE}: {', '.join(found['left_out'])}"] if found["left_out"] else []


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file, None where a stage did not come to write it."""
    return json.loads(path.read_text()) if path.exists() else None


# In the order in which they are run.
STAGES: dict[str, Callable[[Path], Found]] = {
    "environment": _environment,
    "tests": _tests,
    "smoke": _smoke,
    "update": _update,
    "loader": _loader,
    "profile": _profile,
    "step": _step,
}
