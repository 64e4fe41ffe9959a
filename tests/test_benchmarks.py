"""The speed benchmarks at tiny sizes: they measure what they say, and no time is asserted."""

import argparse
import importlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jpeg_files import needs_jpegtran
from launching import python

from benchmarks import epoch, loader, performance, scale
from benchmarks.contenders import ADDRESSABLE, FASTEST, TARGETS, Choice, contenders
from benchmarks.epoch import StepTime
from benchmarks.faults.victim import PLACES
from benchmarks.loader_ours import fast_idct_levels
from benchmarks.loader_peers import Setting
from benchmarks.measuring import spread
from benchmarks.photographs import photographs, write_photographs
from engine.ranks.world import World
from pipeline.shards.index import open_index
from pipeline.shards.reader import SampleReader
from pipeline.shards.units import open_units
from tools.shards.convert import Settings, convert
from tools.shards.images import Encoding

HERE = World(0, 1, 0, 1, torch.device("cpu"), ("here",))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs") / "shards"
    convert(photographs(16, 4), "photographs:16", folder, Settings(shard_samples=8))
    return folder


@pytest.fixture(scope="module")
def small_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "shards"
    write_photographs(folder, 16, encoding=Encoding(resize_shorter=40))
    return folder


@pytest.fixture(scope="module")
def addressable_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoded anew, for which no jpegtran is needed."""
    folder = tmp_path_factory.mktemp("addressable") / "shards"
    write_photographs(folder, 16, encoding=Encoding(format="jpeg", quality=90, addressable=True))
    return folder


@pytest.fixture
def setting(shards: Path, small_shards: Path, addressable_shards: Path) -> Setting:
    return Setting(shards, 32, 8, 10, 4, 1, small_shards, addressable_shards)


WHOLE_BYTES = 32 * 32 * 3 + 8
PATCH_BYTES, ID_BYTES, LABEL_BYTES = 8 * 8 * 3, 4, 8
BYTES = {
    "ours, random, keep 0.4": 6 * (PATCH_BYTES + ID_BYTES) + LABEL_BYTES,  # of 16
    "ours, contrast, keep 1": 16 * (PATCH_BYTES + ID_BYTES) + LABEL_BYTES,
    "ours, random, resample first, keep 0.2": 2 * (PATCH_BYTES + ID_BYTES) + LABEL_BYTES,
    "ours, random, shards of 256 pixels, echo 2, keep 0.2": 2 * (PATCH_BYTES + ID_BYTES) + LABEL_BYTES,
    "ours, addressable, random, keep 0.4": 6 * (PATCH_BYTES + ID_BYTES) + LABEL_BYTES,
    "ours, addressable, contrast, keep 0.2": 2 * (PATCH_BYTES + ID_BYTES) + LABEL_BYTES,
    "ours, addressable, recipe without mixing, random, keep 0.2": 2 * (PATCH_BYTES + ID_BYTES) + LABEL_BYTES,
    "ours, without selection": WHOLE_BYTES,
    "ours, decoding alone, fast IDCT": 0,
    "ours, decoding whole images alone": 0,
    "ours, decoding alone, shards of 256 pixels": 0,
    "DALI's own reader": WHOLE_BYTES,
}
MEASURE_PEER = """
import json, sys
from pathlib import Path
from benchmarks import loader, loader_peers
from benchmarks.contenders import contenders
loader_peers.SHUFFLE_BUFFER = 8
setting = loader_peers.Setting(Path(sys.argv[2]), 32, 8, 10, 4, 1)
print(json.dumps(loader.measure(contenders(setting)[sys.argv[1]][1], setting, seconds=0.01)))
"""


@pytest.mark.parametrize("name", BYTES)
def test_every_loader_hands_on_what_it_should(name: str, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.loader_peers.SHUFFLE_BUFFER", 8)
    _, opener = contenders(setting)[name]
    measured = loader.measure(opener, setting, seconds=0.01)
    assert measured["bytes_per_image"] == BYTES[name]
    assert measured["images_per_s"] > 0


@pytest.mark.parametrize("name", ["timm, WebDataset", "webdataset and torchvision v2"])
def test_peers_with_worker_processes_hand_on_whole_images(name: str, shards: Path) -> None:
    """Alone in a process: they fork, which is not safe beside the threads that other tests leave behind."""
    done = python("-c", MEASURE_PEER, name, shards, timeout_s=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["bytes_per_image"] == WHOLE_BYTES


def test_the_loaders_result_names_every_contender_once(setting: Setting) -> None:
    lines = loader.compare(setting, 0.01, 2, Choice(("contrast, keep 1",)))
    assert [line["contender"] for line in lines] == ["ours, contrast, keep 1"]
    assert len(lines[0]["images_per_s"]["values"]) == 2
    assert "ours, contrast, keep 1" in loader.describe(lines)


def test_ours_alone_are_measured_with_fewer_threads(setting: Setting) -> None:
    choice = Choice(("ours, contrast, keep", "decoding alone, fast"), keep_rates=(0.2,))
    lines = loader.over_threads(replace(setting, workers=2), [1], 0.01, 1, choice)
    assert [(line["contender"], line["threads"]) for line in lines] == [("ours, contrast, keep 0.2", 1)]


def test_keep_rates_are_those_of_ours_and_others_take_part_whatever_they_are(setting: Setting) -> None:
    choice = Choice(("ours, random, keep", "DALI's"), keep_rates=(0.2, 1.0))
    assert list(choice.of(setting)) == ["ours, random, keep 0.2", "ours, random, keep 1", "DALI's own reader"]


def test_shards_that_nobody_reads_are_not_made(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[str]()
    for name in ("with_resized_shards", "with_addressable_shards"):
        monkeypatch.setattr(loader, name, lambda setting, *_, name=name: made.append(name) or (setting, {}))
    assert loader.with_further_shards(setting, Choice(("ours, random, keep", "timm")), 16) == (setting, {})
    assert not made
    loader.with_further_shards(setting, Choice(("addressable",), keep_rates=(0.2,)), 16)
    assert made == ["with_addressable_shards"]
    assert Choice(("decoding alone",)).shards() == {"resized_shards"}
    assert Choice().shards() == {"shards", "resized_shards", "addressable_shards"}


def test_every_comparison_is_between_contenders_there_are(setting: Setting) -> None:
    there = set(contenders(setting))
    assert {name for several in FASTEST.values() for name in several} <= there
    assert {name for pair in TARGETS for name in pair} <= there | set(FASTEST)


def test_addressable_contenders_take_part_at_their_keep_rates_where_there_are_such_shards(setting: Setting) -> None:
    names = {f"ours, {name}, keep {rate:g}" for name, one in ADDRESSABLE.items() for rate in one.keep_rates}
    assert set(Choice(("addressable",)).of(setting)) == names
    assert {name.removeprefix("ours, addressable, ") for name in names} == {
        *("random, keep 0.2", "random, keep 0.4", "random, keep 0.6", "random, keep 1", "contrast, keep 0.2"),
        *("recipe, random, keep 0.2", "recipe, random, keep 1", "recipe without mixing, random, keep 0.2"),
        *("map bytes, keep 0.2", "map bytes, keep 0.4"),
    }
    assert not Choice(("addressable",)).of(replace(setting, addressable_shards=None))


def test_what_is_hoped_for_of_an_addressable_contender_stands_in_its_entry() -> None:
    for name, one in ADDRESSABLE.items():
        for (rate, other), ratio in one.hoped.items():
            assert rate in one.keep_rates
            assert TARGETS[f"ours, {name}, keep {rate:g}", other] == ratio


@needs_jpegtran
def test_shards_are_made_addressable_beside_the_others_once(setting: Setting, tmp_path: Path) -> None:
    there = replace(setting, shards=shutil.copytree(setting.shards, tmp_path / "shards"), addressable_shards=None)
    found, left_out = loader.with_addressable_shards(there)
    assert (found.addressable_shards, left_out) == (tmp_path / "shards-addressable", {})
    index = open_index(tmp_path / "shards-addressable", "train")
    assert np.array_equal(index.label, open_index(setting.shards, "train").label)
    assert sum(len(units.lengths) > 0 for one in index.shards if (units := open_units(index.folder, one))) == 2
    written = {path: path.stat().st_mtime_ns for path in index.folder.iterdir()}
    assert loader.with_addressable_shards(there) == (found, {})
    assert written == {path: path.stat().st_mtime_ns for path in index.folder.iterdir()}


def test_where_shards_cannot_be_made_addressable_the_contenders_are_left_out_and_named(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.shards.addressable.shutil.which", lambda name: None)
    there = replace(setting, addressable_shards=None)
    found, left_out = loader.with_addressable_shards(there)
    assert found == there
    assert left_out["ours, addressable, random"] == "needs jpegtran (Debian: apt-get install libjpeg-turbo-progs)"
    assert len(left_out) == len(ADDRESSABLE)


def line(contender: str, cpu_ms: float) -> dict[str, Any]:
    rate, cpu = spread([1000.0]), spread([cpu_ms])
    return {"contender": contender, "images_per_s": rate, "cpu_ms_per_image": cpu, "bytes_per_image": 100}


def test_the_page_shows_addressable_contenders_and_does_without_them() -> None:
    hardware = {"cpu": "a CPU", "cores": 2, "memory_gib": 4, "torch": "2", "nvidia-dali-cuda130": "2", "timm": "1"}
    common = {"command": "run", "hardware": hardware, "repeats": 1, "load_average_before": 0.0, "ratios": []}
    ordinary = [line("ours, random, keep 0.2", 0.8), line("ours, random, keep 1", 1.0)]
    others = [line("ours, addressable, random, keep 0.2", 0.5), line("ours, addressable, random, keep 1", 1.1)]
    without = performance.loader_section({**common, "data_sets": {"photographs": ordinary}})
    assert "ddressable" not in without
    shown = performance.loader_section({**common, "data_sets": {"photographs": ordinary + others}})
    assert "| ours, addressable, random, keep 0.2 | 1,000 (1,000 to 1,000) | 0.50 (0.50 to 0.50) | 100 |" in shown
    assert "of an ordinary JPEG: 0.50 and 0.80 ms at keep rate 0.2, 1.10 and 1.00 ms at keep rate 1." in shown


def test_the_page_names_a_gpu_with_its_driver_and_the_threads() -> None:
    hardware = {"cpu": "a CPU", "cores": 16, "memory_gib": 4, "torch": "2", "nvidia-dali-cuda130": "2", "timm": "1"}
    hardware |= {"gpus": ["NVIDIA H100"], "driver": "580.65.06"}
    common = {"command": "run", "hardware": hardware, "repeats": 1, "load_average_before": 0.0}
    lines = {"photographs": [line("ours, random, keep 0.2", 0.8)]}
    fewer = {"photographs": [{"threads": 4, **line("ours, random, keep 0.2", 0.7)}]}
    shown = performance.loader_section({**common, "ratios": [], "data_sets": lines, "over_threads": fewer})
    assert "on NVIDIA H100, driver 580.65.06, a CPU, 16 core(s)" in shown
    assert "| 4 | ours, random, keep 0.2 | 1,000 (1,000 to 1,000) | 0.70 (0.70 to 0.70) | 100 |" in shown
    step = {"way": "timm", "num_kept": 196, "step_s": spread([0.0123]), "speed_over_timm": spread([1.0])}
    facts = {"model": "vit", "precision": "bf16", "batch_size": 256, "device": "cuda", "steps": [step]}
    assert "| 196 | timm | 12.3 (12.3 to 12.3) | 1.00 (1.00 to 1.00) |  |" in performance.step_section(common | facts)


def test_rates_are_compared_repeat_by_repeat() -> None:
    lines = [
        {"contender": "ours, random, keep 0.2", "images_per_s": spread([10.0, 30.0])},
        {"contender": "timm, WebDataset", "images_per_s": spread([5.0, 10.0])},
    ]
    [found] = loader.ratios(lines)
    assert found["ratio"]["values"] == [2.0, 3.0]
    assert "2.50 (2.00 to 3.00), hoped for: at least 2.5" in loader.describe_ratios([found])


def test_shards_made_smaller_at_conversion_hold_the_same_images_smaller(shards: Path, small_shards: Path) -> None:
    whole, small = open_index(shards, "train"), open_index(small_shards, "train")
    assert np.array_equal(whole.label, small.label)
    assert set(np.minimum(small.height, small.width)) == {40}


def test_the_fast_idct_moves_pixels_by_a_few_levels(setting: Setting) -> None:
    levels = fast_idct_levels(setting, num_images=4)
    assert 0 < levels["mean"] < levels["largest"] < 32


def options(shards: Path) -> argparse.Namespace:
    return argparse.Namespace(data=shards, batch_size=2, cores=1, precision="fp32", steps=18, model=epoch.MODEL)


def test_an_epoch_of_few_steps_has_the_schedules_stages(shards: Path) -> None:
    run = epoch.prepared_run(epoch.CYCLIC, options(shards), HERE)
    schedule = epoch.shortened(run, 18).schedule
    for first in (18, 36):  # of the second and of the third epoch
        kept = [schedule.stage(step).num_kept for step in range(first, first + 18)]
        assert Counter(kept) == {38: 2, 78: 4, 117: 4, 157: 4, 196: 4}


def test_timms_model_sees_as_many_patches_as_the_stage_keeps(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [(torch.zeros(2, 3, 224, 224), torch.tensor([0, 1]))] * 3
    monkeypatch.setattr(epoch, "timm_webdataset_loader", lambda *_: batches)
    monkeypatch.setattr(epoch, "stopped_workers", lambda loader: nullcontext(iter(loader)))
    run = epoch.prepared_run(epoch.FULL, options(shards), HERE)
    side = epoch.TimmSide(options(shards), HERE, run)
    seen: list[int] = []
    side._model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1] - 1))
    times = side.epoch([196], [38, 117])
    assert seen == [196, 38, 117]
    assert [one.num_kept for one in times] == [38, 117]


def test_a_step_waits_until_its_batch_is_there_and_lasts_until_it_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("engine.timing.laps.time.perf_counter", lambda: now)

    def batches() -> Iterator[int]:
        nonlocal now
        for wait_s in (0.5, 0.0):
            now += wait_s
            yield 7

    def train(batch: int, num_kept: int) -> None:
        nonlocal now
        now += num_kept / 100

    times = epoch.timed_steps(batches(), train, [200, 100], torch.device("cpu"))
    assert times == [StepTime(200, 2.5, 0.5), StepTime(100, 1.0, 0.0)]


def test_a_stages_time_and_wait_are_those_of_its_steps() -> None:
    repeats = [[StepTime(38, 1.0, 0.1), StepTime(38, 3.0, 0.1), StepTime(196, 5.0, 0.0)]] * 2
    first, last = epoch.stage_lines(repeats)
    assert (first["steps"], first["step_s"]["median"], first["wait_share"]["median"]) == (2, 2.0, 0.05)
    assert (last["num_kept"], last["steps"]) == (196, 1)


def test_a_large_data_set_loads_though_its_shards_are_one(tmp_path: Path) -> None:
    [line] = scale.indexes(tmp_path, 1, {1000: 10})
    index = open_index(tmp_path / "1000", "train")
    assert (line["num_samples"], index.num_samples, len(index.shards)) == (1000, 1000, 10)
    assert len({index.key(number) for number in range(1000)}) == 1000
    assert np.bincount(index.shard).tolist() == [100] * 10
    with SampleReader(index) as reader:
        assert bytes(reader.read(np.array([999]))[0][:2]) == b"\xff\xd8"  # a JPEG begins there
    assert scale.start_up(tmp_path / "1000")["startup_s"] > 0


def test_plans_are_timed_over_sizes_settings_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "PLANNED_SIZES", (10**4, 10**9))
    monkeypatch.setattr(scale, "WORLD_SIZES", (1, 4096))
    found = {
        "plans_over_sizes": scale.plans_over_sizes(1),
        "plans_over_settings": scale.plans_over_settings(1),
        "plans_over_ranks": scale.plans_over_ranks(1),
        "plan_profile": scale.plan_profile(1),
    }
    assert {line["num_samples"] for line in found["plans_over_sizes"]} == {10**4, 10**9}
    assert {line["augment"] for line in found["plans_over_settings"]} == set(scale.AUGMENTS)
    assert "world_size 4096" in scale.describe(found)


def test_a_spread_keeps_every_value() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "values": [3.0, 1.0, 2.0]}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_for_a_fault_is_still_there(place: str) -> None:
    owner, name = PLACES[place]
    assert owner == "pathlib.Path" or hasattr(importlib.import_module(owner), name)
