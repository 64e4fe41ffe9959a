"""Twenty runs killed with SIGKILL at random moments and resumed until done end with the weights of one left in peace.

    python -m benchmarks.kill_and_resume

Each run of 200 steps on two ranks is killed up to three times, at moments drawn from a seed over the run's length; a
fifth of them fall into the start of the processes. What is killed is drawn too: every process of the run at once, a
rank, deepspeed's launch.py, or the deepspeed command itself. Then the same command is given again. At the end the
digest of the weights, and the loss of every step, are held against those of the run that was left in peace. Writes
benchmarks/results/kill_and_resume.json. Takes about fifteen minutes on two cores. With --everything the runs have
planned augmentation, mixing, the magnitude rule, relative positions, averaging and drop path all at once, and the
result goes into benchmarks/results/kill_and_resume_everything.json. With --bf16 they compute in bfloat16 at ZeRO 0
(benchmarks/results/kill_and_resume_bf16.json). With --all-axes image size, patch size, keep rate and examples follow
schedules of their own, beside augmentation, mixing, a level of smaller images, growing micro batches, averaging and
drop path (benchmarks/results/kill_and_resume_all_axes.json).
"""

import argparse
import json
import random
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.shared.everything import all_axes, everything
from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from benchmarks.toy_runs import ToyRun, settings, wait_until
from engine.metrics import read_metrics
from engine.ranks.hardware import describe_hardware

KINDS = ("usual", "everything", "bf16", "all_axes")
RESULT = Path("benchmarks/results/kill_and_resume.json")
RESULTS = {"usual": RESULT} | {kind: RESULT.with_stem(f"{RESULT.stem}_{kind}") for kind in KINDS[1:]}
TARGETS = ("everything", "rank 0", "rank 1", "launch.py", "runner")
MOST_KILLS = 3
START_UP_SHARE = 0.2
GONE_WITHIN_S = 90.0


@dataclass(frozen=True)
class Kill:
    """One SIGKILL: what it hit, when, and what was left.

    Attributes:
        moment: ``start-up`` or ``training``.
        after_s: seconds after the start of the processes.
        steps_done: steps in the metrics at that moment.
        survivors: processes that lived on for longer than they may.
        ended_after_s: seconds until no process was left.
    """

    target: str
    moment: str
    after_s: float
    steps_done: int
    survivors: list[str]
    ended_after_s: float


def overrides(steps: int, kind: str, shards: Path) -> list[str]:
    """A run of some length and one of the ``KINDS``, with checkpoints and evaluations in it."""
    common = settings(train__duration=f"{steps}steps", checkpoint__every="10steps", eval__every="25steps")
    some = settings(model__drop_path=0.1, data__augment__flip_probability=0.5)
    own: dict[str, Callable[[], list[str]]] = {
        "usual": lambda: [*settings(engine__zero_stage=1), *some],  # weights that no rank holds alone
        "everything": everything,
        "bf16": lambda: [*settings(engine__precision="bf16"), *some],
        "all_axes": lambda: [*all_axes(shards), *settings(model__drop_path=0.2)],
    }
    return own[kind]() + common


def losses(out: Path) -> list[tuple[int, float]]:
    """Step and loss of every train line."""
    return [(line["step"], line["loss"]) for line in read_metrics(out / "metrics.jsonl") if line["event"] == "train"]


def accuracies(out: Path) -> list[tuple[int, float, float]]:
    """Step, keep rate and loss of every evaluation."""
    lines = read_metrics(out / "metrics.jsonl")
    return [(line["step"], line["keep_rate"], line["loss"]) for line in lines if line["event"] == "eval"]


def kill(run: ToyRun, target: str, moment: str) -> Kill:
    """Kill now, and wait until nothing is left of the run."""
    after_s, steps_done = time.monotonic() - run.started, run.num_lines
    if target == "everything" or target not in run.processes():
        target = "everything"
        run.kill_everything()
    else:
        run.send(target, signal.SIGKILL)
    killed = time.monotonic()
    survivors = run.survivors(GONE_WITHIN_S)
    return Kill(target, moment, round(after_s, 2), steps_done, survivors, round(time.monotonic() - killed, 2))


def kill_at_random(run: ToyRun, draws: random.Random, start_up_s: float, training_s: float) -> Kill | None:
    """Wait for a random moment and kill there; None if the run was done before."""
    target = draws.choice(TARGETS)
    in_start_up, fraction = draws.random() < START_UP_SHARE, draws.random()
    if in_start_up:
        wait_until(lambda: run.has_ended or time.monotonic() - run.started > fraction * start_up_s, 600)
    else:
        before = run.num_lines
        wait_until(lambda: run.has_ended or run.num_lines > before, 600)
        begun = time.monotonic()
        wait_until(lambda: run.has_ended or time.monotonic() - begun > fraction * training_s, 600)
    return None if run.has_ended else kill(run, target, "start-up" if in_start_up else "training")


def one_run(
    number: int, config: Path, out: Path, flags: list[str], start_up_s: float, training_s: float
) -> dict[str, Any]:
    """Kill and resume one run until it is done."""
    draws = random.Random(number)
    kills: list[Kill] = []
    starts, code = 0, None
    while code != 0 and starts <= MOST_KILLS:
        starts += 1
        with ToyRun(config, out, flags) as run:
            # The first start is always killed, later ones more often than not.
            if len(kills) < MOST_KILLS and (not kills or draws.random() < 0.6):
                found = kill_at_random(run, draws, start_up_s, training_s)
                if found is not None:
                    kills.append(found)
                    continue
            code = run.wait(600)
            tail = run.tail()
            summary = run.summary()
    if code != 0:
        return {
            "run": number,
            "kills": [asdict(k) for k in kills],
            "starts": starts,
            "exit_code": code,
            "printed": tail,
        }
    return {
        "run": number,
        "kills": [asdict(k) for k in kills],
        "starts": starts,
        "exit_code": code,
        "weights_digest": summary["weights_digest"],
        "ema_digest": summary.get("ema_digest"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    kinds = parser.add_mutually_exclusive_group()
    for flag, about in {
        "--everything": "with every feature of training switched on",
        "--bf16": "in bfloat16 at ZeRO 0",
        "--all-axes": "with schedules of sizes and examples beside that of the keep rate",
    }.items():
        kind = flag.removeprefix("--").replace("-", "_")
        kinds.add_argument(flag, dest="kind", action="store_const", const=kind, default=KINDS[0], help=about)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = write_toy_shards(folder / "shards")
        config = write_toy_config(folder / "toy.yaml", shards)
        flags = overrides(arguments.steps, arguments.kind, shards)
        with ToyRun(config, folder / "in-peace", flags) as run:
            run.wait_for_step(0)
            start_up_s = time.monotonic() - run.started
            if run.wait(600) != 0:
                raise RuntimeError(f"the run that was left in peace failed: {run.tail()}")
            training_s = time.monotonic() - run.started - start_up_s
            expected, expected_ema = run.summary()["weights_digest"], run.summary().get("ema_digest")
        print(f"in peace: {start_up_s:.1f} s to start, {training_s:.1f} s to train; digest {expected[:16]}", flush=True)
        runs = []
        for number in range(arguments.runs):
            out = folder / f"run-{number:02d}"
            found = one_run(number, config, out, flags, start_up_s, training_s)
            digests = (found.get("weights_digest"), found.get("ema_digest"))
            found["weights_equal"] = digests == (expected, expected_ema)
            found["losses_equal"] = losses(out) == losses(folder / "in-peace")
            found["evaluations_equal"] = accuracies(out) == accuracies(folder / "in-peace")
            found["no_orphans"] = not any(k["survivors"] for k in found["kills"])
            runs.append(found)
            hits = ", ".join(f"{k['target']} in {k['moment']} at step {k['steps_done']}" for k in found["kills"])
            told = "as in peace" if found["weights_equal"] and found["losses_equal"] else f"DIFFERS: {found}"
            print(f"run {number}: {told}; killed: {hits}", flush=True)
    result = {
        "command": f"python -m benchmarks.kill_and_resume {shlex.join(sys.argv[1:])}".strip(),
        "hardware": describe_hardware(),
        "ranks": 2,
        "steps": arguments.steps,
        "settings": flags[1::2],
        "start_up_s": start_up_s,
        "training_s": training_s,
        "weights_digest": expected,
        "num_runs": len(runs),
        "num_kills": sum(len(found["kills"]) for found in runs),
        **{
            f"num_{key}": sum(found[key] for found in runs)
            for key in ("weights_equal", "losses_equal", "evaluations_equal", "no_orphans")
        },
        "runs": runs,
    }
    path = RESULTS[arguments.kind]
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['num_weights_equal']} of {len(runs)} digests equal that of the run in peace; written to {path}")


if __name__ == "__main__":
    main()
