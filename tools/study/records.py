"""The record of a finished run: everything that a study keeps of it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.metrics import read_metrics
from pipeline.yaml_file import read_yaml
from tools.study.spec import Job, StudySpec, differences

_LOSS_POINTS = 200
_CLOCKS = {"wall": "train_wall_s", "cpu": "train_cpu_s"}
Records = Mapping[tuple[str, int], dict[str, Any]]  # by name of the row and seed


def record_of(job: Job, folder: Path) -> dict[str, Any]:
    """Everything that the study keeps of a finished run; the run folder is not needed afterwards."""
    lines, summary = read_metrics(folder / "metrics.jsonl"), json.loads((folder / "summary.json").read_text())
    hardware = summary.pop("hardware")
    machine = {key: hardware.pop(key) for key in ("cpu", "cores", "memory_gib", "gpus", "system")}
    if "numa_nodes" in hardware:  # runs of earlier versions tell none
        machine["numa_nodes"] = hardware.pop("numa_nodes")
    curve, loss = _over_time(lines)
    return {
        "name": job.name,
        "seed": job.seed,
        "config": read_yaml(folder / "config.yaml", "configuration"),
        **summary,
        "curve": curve,
        "loss": loss,
        "hardware": machine,
        "versions": hardware,
    }


def _over_time(lines: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Accuracies after each validation and a thinned training loss, each with the time in training steps until then.

    Of several validation sets it is the first one's.
    """
    curve: dict[int, dict[str, Any]] = {}
    loss: list[dict[str, Any]] = []
    wall_s = cpu_s = 0.0
    first_set = next((line.get("val") for line in lines if line["event"] == "eval"), None)
    for line in lines:
        if line["event"] == "train":
            wall_s += line["step_s"] * line["interval_steps"]
            cpu_s += line["cpu_s"] * line["interval_steps"]
            loss.append({"step": line["step"] + 1, "loss": line["loss"], "train_wall_s": wall_s, "train_cpu_s": cpu_s})
        elif line["event"] == "eval" and line.get("val") == first_set:
            point = {"step": line["step"], "train_wall_s": wall_s, "train_cpu_s": cpu_s, "top1": {}}
            curve.setdefault(line["step"], point)["top1"][str(line["keep_rate"])] = line["top1"]
    every = -(-len(loss) // _LOSS_POINTS) if loss else 1
    return list(curve.values()), loss[::-1][::every][::-1]


def read_records(folder: Path, jobs: Sequence[Job]) -> dict[tuple[str, int], dict[str, Any]]:
    """The records of those jobs that are finished.

    Raises:
        ValueError: a record that was made with another configuration than the study asks for now.
    """
    found = {}
    for job in jobs:
        path = folder / f"{job.stem}.json"
        if not path.exists():
            continue
        record = json.loads(path.read_text())
        asked = job.config.model_dump(mode="json", exclude={"name"})
        if job.in_the_time_of is not None:
            asked["train"].pop("duration")
        other = sorted(differences(asked, record["config"]))
        if other:
            raise ValueError(
                f"{path} was made with another configuration ({'; '.join(other)}); take the study's settings back, "
                "move the record away, or choose another --out"
            )
        found[job.name, job.seed] = record
    return found


def steps_in_the_time_of(spec: StudySpec, records: Records, job: Job) -> int | None:
    """For how many steps a run in another's time is trained; None until both runs of its seed are finished.

    Raises:
        ValueError: their times cannot be compared: the two were trained on different hardware, or the study's clock was
            not measured.
    """
    own = records.get((job.variant, job.seed))
    other = None if job.in_the_time_of is None else records.get((job.in_the_time_of, job.seed))
    if own is None or other is None:
        return None
    if machine_of(own) != machine_of(other):
        raise ValueError(
            f"{own['name']} was trained on {machine_of(own)}, {other['name']} on {machine_of(other)}; to compare their "
            f"times, move the record of seed {job.seed} of one of them away, and train it again on the other's machine"
        )
    return max(1, round(own["steps"] * time_of(spec, other) / time_of(spec, own)))


def machine_of(record: Mapping[str, Any]) -> str:
    """What a run was trained on, in words: times compare where it is the same."""
    return f"{record['ranks']} rank(s), {hardware_in_words(record['hardware'])}"


def hardware_in_words(hardware: Mapping[str, Any]) -> str:
    """A record's hardware but for its memory, of which some machines of one kind reserve more than others."""
    cores = f"{hardware.get('cores')} core(s)"
    return ", ".join(filter(None, [hardware.get("cpu"), cores, *hardware.get("gpus", []), hardware.get("system")]))


def time_of(spec: StudySpec, record: Mapping[str, Any]) -> float:
    """Seconds in training steps, by the study's clock."""
    value = record[_CLOCKS[spec.clock]]
    if value is None:
        raise ValueError(
            f"{record['name']} seed {record['seed']}: a part of it was trained without measuring {spec.clock}"
        )
    return value
