"""Does a profile of one host predict the time of a schedule's steps on two, over lines of two rates?

    make data && python -m benchmarks.predicted_hosts

As root on Linux. Two hosts are namespaces of this machine (see benchmarks/shared/hosts.py), each one rank on a
processor core of its own; what each of them sends is held to a rate. Fashion-MNIST's configuration, 64 images a rank.
In turns: both hosts profile themselves, by themselves and at the same time, as they will be busy at the same time, and
the first one's profile counts; then both train together, once at each rate, at keep rates that were not profiled. What
decides are the fastest windows of both sides (see benchmarks/predicted_hosts/undisturbed.py); whole times are told as
well. At last a short run of every ZeRO stage, two passes a step, whose bytes on the line are counted. Writes
predicted_hosts.json. Exit codes: 0; 1 a time is off by more than 15 %; 2 this machine cannot do it (one line says why).
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, write_result
from benchmarks.predicted_hosts.compared import Lines, compare
from benchmarks.predicted_hosts.line import sent_bytes, shape
from benchmarks.predicted_hosts.undisturbed import fastest_profile
from benchmarks.shared.hosts import Host, two_hosts, why_impossible
from benchmarks.shared.shell import ROOT
from benchmarks.toy_runs import settings
from engine.config import RunConfig, load_config
from engine.metrics import read_metrics
from engine.run_plan import plan_run
from tools.profile.saved import SavedProfile, read_profile
from tools.schedule.exchange import Network, carried_bytes
from tools.schedule.prediction import num_parameters

CONFIG = "configs/fashion_mnist.yaml"
NUM_SAMPLES = 60_000
RATES_GBIT_PER_S = (1.0, 0.25)
TOLERANCE = 0.15
IMAGES_OF_A_RANK = 64
LONGEST_S = 400

# Keep rates between those of the configuration's own schedule, which is profiled.
SCHEDULE = {"schedule__kind": "steps", "schedule__keep_rate": [[0, 0.3], [1 / 3, 0.5], [2 / 3, 0.9]]}
RUN = {"train__duration": "120steps", "log_every": 5, "optim__warmup": "5steps", "eval__keep_rates": [0.2]}
# Of a model whose parameters are not so small that ZeRO 3 keeps them whole.
COUNTED = {
    **RUN,
    "train__duration": "40steps",
    "train__micro_batch_size": IMAGES_OF_A_RANK // 2,
    "schedule__kind": "constant",
    "schedule__keep_rate": 0.2,
    "model__options": {"embed_dim": 384, "depth": 1, "num_heads": 4},
}


def trained_on(hosts: int, **values: Any) -> list[str]:
    """A run's arguments, with the same share of the batch for each host."""
    return settings(**values, train__global_batch_size=hosts * IMAGES_OF_A_RANK)


def configured(arguments: Sequence[str]) -> RunConfig:
    return load_config(ROOT / CONFIG, list(arguments[1::2]))


def on_core(core: int, module: str, *arguments: str | Path) -> list[str | Path]:
    """A module of this project, with its configuration, on one processor core."""
    return ["taskset", "--cpu-list", str(core), sys.executable, "-m", module, "--config", CONFIG, *arguments]


def finish(processes: Sequence[subprocess.Popen[str]], what: str) -> None:
    """Wait for both hosts.

    Raises:
        RuntimeError: one failed; with the end of what both printed.
    """
    printed = [process.communicate(timeout=LONGEST_S)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{what} failed:\n" + "\n".join(text[-2000:] for text in printed))


def profile(hosts: Sequence[Host], cores: Sequence[int], folder: Path, options: argparse.Namespace) -> SavedProfile:
    """The first host's profile of itself, while the second one does the same."""
    length = ["--seconds", str(options.seconds), "--repeats", str(options.repeats)]
    started = [
        host.start(
            *on_core(core, "tools.profile", *trained_on(1), *length, "--json", folder / f"profile-{host.name}.json")
        )
        for host, core in zip(hosts, cores, strict=True)
    ]
    finish(started, "profiling")
    return read_profile(folder / f"profile-{hosts[0].name}.json")


def train(hosts: Sequence[Host], cores: Sequence[int], folder: Path, arguments: Sequence[str]) -> Lines:
    """The metrics of a run of one rank on each host."""
    out = folder / "run"
    command: list[str | Path] = [*arguments, "--resume", "never", "--out", out]
    places = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_SIZE": "1"}
    places |= {"MASTER_ADDR": hosts[0].name, "MASTER_PORT": "29500"}
    started = [
        host.start(*on_core(core, "engine.train", *command), RANK=str(rank), **places)
        for rank, (host, core) in enumerate(zip(hosts, cores, strict=True))
    ]
    finish(started, "training")
    return read_metrics(out / "metrics.jsonl")


def count_bytes(hosts: Sequence[Host], cores: Sequence[int], folder: Path, zero_stage: int) -> dict[str, Any]:
    """What a host sends in a step, as predicted and as counted.

    Counted is the second host, which sends nothing at the start: the first one hands its weights on.
    """
    arguments = trained_on(2, **COUNTED, engine__zero_stage=zero_stage)
    config = configured(arguments)
    before = sent_bytes(hosts[1])
    train(hosts, cores, folder, arguments)
    sent = sent_bytes(hosts[1]) - before
    plan = plan_run(config, NUM_SAMPLES, len(hosts))
    passes = plan.micro_batches.steps(config.data.num_patches)
    network = Network(len(hosts), RATES_GBIT_PER_S[0], len(hosts))
    counted = sent / plan.total_steps
    predicted = carried_bytes(config, network, num_parameters(config), passes, on_gpu=False)
    return {
        "zero_stage": zero_stage,
        "passes": passes,
        "predicted_bytes": predicted,
        "counted_bytes": counted,
        "counted_over_predicted": counted / predicted,
    }


def measure(options: argparse.Namespace, cores: Sequence[int]) -> dict[str, Any]:
    """Everything, in turns."""
    arguments = trained_on(2, **RUN, **SCHEDULE)
    profiles: list[SavedProfile] = []
    runs: dict[float, list[Lines]] = {rate: [] for rate in RATES_GBIT_PER_S}
    with tempfile.TemporaryDirectory(prefix="hosts-") as name, two_hosts(Path(name) / "settings") as hosts:
        folder = Path(name)
        for turn in range(options.turns):
            profiles.append(profile(hosts, cores, folder, options))
            say(f"turn {turn + 1}/{options.turns}: profiled")
            for rate in RATES_GBIT_PER_S:
                for host in hosts:
                    shape(host, rate)
                runs[rate].append(train(hosts, cores, folder, arguments))
                say(f"turn {turn + 1}/{options.turns}: trained over {rate:g} Gbit/s")
        for host in hosts:
            shape(host, RATES_GBIT_PER_S[0])
        carried = []
        for zero_stage in range(4):
            carried.append(count_bytes(hosts, cores, folder, zero_stage))
            say(f"ZeRO {zero_stage}: bytes counted")
    config, undisturbed = configured(arguments), fastest_profile(profiles)
    found = [compare(config, undisturbed, rate, runs[rate], num_samples=NUM_SAMPLES) for rate in RATES_GBIT_PER_S]
    worst = max(abs(one["difference"]) for one in found)
    return {"rates": found, "bytes": carried, "largest_difference": worst, "agrees": worst <= TOLERANCE}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def describe(found: dict[str, Any]) -> str:
    """What was found, for people."""
    rows = []
    for one in found["rates"]:
        rows.append(
            f"{one['link_gbit_per_s']:g} Gbit/s: predicted {one['predicted_s']:.2f} s, measured "
            f"{one['measured_s']:.2f} s ({one['difference']:+.1%}); whole times of the turns, disturbed ones too: "
            + ", ".join(f"{seconds:.2f}" for seconds in one["measured_s_of_turns"])
        )
        for stage in one["stages"]:
            ms = {key: 1000 * stage[f"{key}_s"] for key in ("predicted_step", "predicted_exchange", "measured_step")}
            rows.append(
                f"  {stage['num_kept']:>3} patches: predicted {ms['predicted_step']:.1f} ms a step, exchange "
                f"{ms['predicted_exchange']:.1f} of it, measured {ms['measured_step']:.1f} ({stage['difference']:+.1%})"
            )
    for one in found["bytes"]:
        rows.append(
            f"ZeRO {one['zero_stage']}, {one['passes']} passes: predicted {one['predicted_bytes']:,.0f} bytes a step, "
            f"counted {one['counted_bytes']:,.0f} with their headers ({one['counted_over_predicted']:.3f} times)"
        )
    return "\n".join([*rows, "agrees" if found["agrees"] else "DISAGREES"])


def why_not_here(cores: Sequence[int]) -> str | None:
    """What this machine lacks, or None."""
    if (lacking := why_impossible()) is not None:
        return lacking
    if len(cores) < 2:
        return "each host needs a processor core of its own, and there is one; run on two cores or more"
    if not (ROOT / "data/fashion-mnist").is_dir():
        return "data/fashion-mnist is not there; make data makes it"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else list(argv)
    load_before = os.getloadavg()[0]
    parser = argparse.ArgumentParser(prog="benchmarks.predicted_hosts", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=0.4, help="per measurement of a profile (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=4, help="of every measurement (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=2, help="profile and run of each (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "predicted_hosts.json", help="(default: %(default)s)")
    options = parser.parse_args(argv)
    cores = sorted(os.sched_getaffinity(0))[:2]
    try:
        if (lacking := why_not_here(cores)) is not None:
            raise OSError(f"two hosts cannot be made: {lacking}")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing is left behind
        found = measure(options, cores)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    facts = {"ranks": 2, "turns": options.turns, "seconds": options.seconds, "repeats": options.repeats}
    write_result(options.out, "benchmarks.predicted_hosts", argv, {**facts, **found}, load_before)
    print(describe(found))
    return 0 if found["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main())
