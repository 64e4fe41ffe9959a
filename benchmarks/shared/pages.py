"""What the sections of docs/performance.md have in common."""

from typing import Any

from pipeline.installed import DALI_BUILDS


def extremes(found: dict[str, Any], form: str) -> str:
    """A spread: ``median (min to max)``."""
    return f"{found['median']:{form}} ({found['min']:{form}} to {found['max']:{form}})"


def machine(result: dict[str, Any]) -> str:
    """What a result was measured on, how, and how busy the machine was with it."""
    hardware = result["hardware"]
    dali = next(hardware[build] for build in DALI_BUILDS if build in hardware)
    gpus = "".join(f"{gpu}, " for gpu in hardware.get("gpus", []))
    driver = f"driver {hardware['driver']}, " if gpus and hardware.get("driver") else ""
    return (
        f"`{result['command']}`, on {gpus}{driver}{hardware['cpu']}, {hardware['cores']} core(s), "
        f"{hardware['memory_gib']:g} GiB, {result['repeats']} repeats; torch {hardware['torch']}, DALI {dali}, timm "
        f"{hardware['timm']}. Load average before: {result['load_average_before']:.1f}."
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
