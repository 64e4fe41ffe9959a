"""A study of a toy configuration, and a trainer that only pretends, as fast as its keep rate is low."""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.shared.shell import ROOT
from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from tools.study.__main__ import main

# Stands in for the trainer: it leaves behind what a run leaves, as fast as its keep rate is low.
FAKE = """
import json, os, pathlib, signal, sys, time
from engine.command_line import Parser
from engine.config import dump_config, load_config
parser = Parser()
parser.add_argument("--module")
parser.add_run_arguments()
parser.add_argument("--out", type=pathlib.Path)
options = parser.parse_args()
config = load_config(options.config, options.set)
with open(options.out.parent / "started.txt", "a") as started:
    started.write(options.out.name + "\\n")
if config.optim.lr == 0.5:
    sys.exit(3)
if config.optim.lr == 0.125:
    sys.exit(75)
if config.optim.lr == 0.25:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    time.sleep(60)
rate = config.schedule.rates()[-1]
steps = int(config.train.duration.amount)
line = {"event": "train", "step": steps - 1, "interval_steps": steps, "loss": 1.0, "step_s": 2 * rate, "cpu_s": rate}
accuracy = {"event": "eval", "step": steps, "keep_rate": 1.0, "top1": 0.8}
options.out.mkdir(parents=True)
(options.out / "config.yaml").write_text(dump_config(config))
(options.out / "metrics.jsonl").write_text(json.dumps(line) + "\\n" + json.dumps(accuracy) + "\\n")
hardware = {"cpu": os.environ["FAKE_CPU"], "cores": 2, "memory_gib": 1, "gpus": [], "system": "b", "torch": "2"}
(options.out / "summary.json").write_text(json.dumps({
    "top1": {"1.0": 0.8 + 0.01 * config.seed + 0.1 * rate, "0.4": 0.5}, "steps": steps, "mean_keep_rate": rate,
    "train_wall_s": 2 * rate * steps, "train_cpu_s": rate * steps, "ranks": 1, "hardware": hardware,
}))
"""
VARIANTS = {
    "full": {"about": "all patches", "set": {"schedule.kind": "constant", "schedule.keep_rate": 1.0}},
    "half": {"about": "half of them", "set": {"schedule.kind": "constant", "schedule.keep_rate": 0.5}},
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    write_toy_config(tmp_path / "toy.yaml", write_toy_shards(tmp_path / "shards"))
    (tmp_path / "fake.py").write_text(FAKE)
    (tmp_path / "out" / "runs").mkdir(parents=True)
    return tmp_path


def write(folder: Path, **changes: Any) -> Path:
    spec = {"name": "toy", "base": str(folder / "toy.yaml"), "seeds": [0, 1], "reference": "full", "variants": VARIANTS}
    (folder / "study.yaml").write_text(yaml.safe_dump(spec | changes))
    return folder / "study.yaml"


def command(folder: Path, *arguments: str) -> list[str]:
    fake = f"{sys.executable} {folder / 'fake.py'}"
    return [str(folder / "study.yaml"), "--out", str(folder / "out"), "--launch", fake, *arguments]


def run(folder: Path, *arguments: str, cpu: str = "a") -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("FAKE_CPU", cpu)
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            return main(command(folder, *arguments))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def started(folder: Path) -> list[str]:
    return (folder / "out" / "runs" / "started.txt").read_text().split()


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "study.json").read_text())
