"""The configurations that are shipped: their numbers are the paper's, and each of them trains a step."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.levels.table import TABLE, starts
from benchmarks.shared.photographs import jpeg_bytes
from benchmarks.shared.shard_files import write_tar
from benchmarks.shared.shell import ROOT
from engine.config import RunConfig, load_config
from engine.evaluation.trained import build_run_model
from engine.models.masked_autoencoder import masked_autoencoder
from engine.optim import build_optimizer, learning_rate, param_groups
from engine.run_plan import build_schedule, plan_run
from engine.snapshots import take_snapshot
from engine.task import training_loss
from pipeline.loader import PatchLoader
from pipeline.plan.step import TrainPlanner
from pipeline.selection.snapshots import fixed_board
from pipeline.shards.index import ShardIndex, build_index
from pipeline.train_plans import TrainPlans
from tools.schedule.preview import preview
from tools.study.spec import jobs_of, load_study

RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
STUDIES = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
IMAGENET = [path for path in RECIPES if path.stem.startswith("imagenet_")]

# arXiv 2208.09520, and the configurations that its authors published.
_FROM_SIMMIM = {
    "train.duration": "100epochs",
    "train.global_batch_size": 128 * 4,
    "train.label_smoothing": 0.1,
    "train.clip_grad_norm": 5.0,
    "train.ema_decay": None,
    "optim.lr": 1.25e-3,
    "optim.final_lr": 2.5e-7,
    "optim.weight_decay": 0.05,
    "optim.layer_decay": 0.65,
    "optim.warmup": "20epochs",
    "model.drop_path": 0.1,
    "data.image_size": 224,
    "data.augment.repeats": 1,
}
_DEIT_S = {
    "train.duration": "300epochs",
    "train.global_batch_size": 256 * 4,
    "train.label_smoothing": 0.1,
    "train.clip_grad_norm": None,
    "train.ema_decay": 0.99996,
    "optim.lr": 1e-3,
    "optim.final_lr": 1e-5,
    "optim.weight_decay": 0.05,
    "optim.layer_decay": None,
    "optim.warmup": "5epochs",
    "model.drop_path": 0.1,
    "data.image_size": 224,
    "data.augment.repeats": 3,
}
_DEIT_S_384 = _DEIT_S | {"train.global_batch_size": 128 * 4, "optim.lr": 5e-4, "data.image_size": 384}
_EVERYWHERE = {
    "data.patch_size": 16,
    "data.num_classes": 1000,
    "data.num_train_samples": 1_281_167,
    "data.augment.mixup": 0.8,
    "data.augment.cutmix": 1.0,
    "data.augment.erase_probability": 0.25,
    "data.augment.auto": {
        "kind": "randaugment",
        "num_ops": 2,
        "magnitude": 9,
        "magnitude_std": 0.5,
        "probability": 0.5,
        "increasing": True,
    },
}
_SCHEDULES = {
    "full": {"kind": "constant", "keep_rate": 1.0},
    "fixed": {"kind": "constant", "keep_rate": 0.6},
    "linear": {"kind": "linear", "keep_rate": [0.2, 1.0], "rounding": 0.2},
    "cyclic": {"kind": "cyclic", "keep_rate": [0.2, 1.0], "rounding": 0.2},
}
SIZES = [path for path in IMAGENET if path.stem.endswith("sizes")]
PAPER = [path for path in IMAGENET if "mae" not in path.stem and path not in SIZES]


def expected(name: str) -> dict[str, Any]:
    base = _FROM_SIMMIM if "vit_b16" in name else _DEIT_S_384 if "384" in name else _DEIT_S
    return base | _EVERYWHERE | {"selection.rule": "random" if name.endswith("random") else "magnitude"}


def value(config: RunConfig, key: str) -> Any:
    found: Any = config.model_dump(mode="json")
    for part in key.split("."):
        found = found[part]
    return found


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_numbers_of_a_recipe_are_the_papers(path: Path) -> None:
    config = load_config(path)
    assert {key: value(config, key) for key in expected(path.stem)} == expected(path.stem)
    kind = next(kind for kind in _SCHEDULES if kind in path.stem.split("_"))
    schedule = config.schedule.model_dump(mode="json")
    assert {key: schedule[key] for key in _SCHEDULES[kind]} == _SCHEDULES[kind]


def test_the_paper_has_eleven_runs() -> None:
    assert len(PAPER) == 11


def test_the_masked_autoencoders_numbers_are_its_authors() -> None:
    """arXiv 2111.06377, table 8: 1.5e-4 for each 256 images, 800 epochs, 40 of them warm-up, a quarter is seen."""
    config = load_config(ROOT / "configs" / "imagenet_vit_b16_mae_pretrain.yaml")
    assert config.optim.lr == pytest.approx(1.5e-4 * config.train.global_batch_size / 256)
    assert (config.optim.betas, config.optim.weight_decay) == ((0.9, 0.95), 0.05)
    assert (str(config.train.duration), str(config.optim.warmup)) == ("800epochs", "40epochs")
    assert build_schedule(config, 1_281_167).stage(0).num_kept == 49


@pytest.mark.parametrize("path", SIZES, ids=lambda path: path.stem)
def test_growing_images_follow_the_table_of_their_authors(path: Path) -> None:
    """arXiv 2405.08768: tenths of the computation at each size, the first two of them warm-up, magnitudes 0 to 9."""
    assert len(SIZES) == 2
    config = load_config(path)
    equal_epochs, tenths = 150, [size for size, number in TABLE for _ in range(number)]
    images = [(224 / size) ** 2 for size in tenths]  # of a tenth, in tenths of an epoch's at 224 pixels
    assert str(config.train.duration) == f"{round(equal_epochs * sum(images) / 10)}epochs"
    assert str(config.optim.warmup) == f"{round(equal_epochs * sum(images[:2]) / 10)}epochs"
    assert config.optim.decay_over == "tokens"
    schedule = config.schedule.model_dump(mode="json")
    assert schedule["image_size"]["values"] == [[pytest.approx(start, abs=1e-4), size] for start, size in starts()]
    auto = value(config, "data.augment.auto.magnitude")
    begins = [sum(images[:tenth]) / sum(images) for tenth in range(10)]
    assert auto["values"] == [[pytest.approx(start, abs=1e-4), tenth] for tenth, start in enumerate(begins)]


@pytest.mark.parametrize("path", IMAGENET, ids=lambda path: path.stem)
def test_the_schedule_of_a_recipe_can_be_previewed_without_data(path: Path) -> None:
    config = load_config(path)
    shown = preview(config)
    if config.schedule.kind in ("cyclic", "linear"):
        kept = [38, 78, 117, 157, 196] if config.data.image_size == 224 else [114, 230, 345, 461, 576]
        assert [stage.num_kept for stage in shown.stages] == kept
        # A ninth and four times two ninths, as nearly as an epoch's whole steps allow.
        assert [stage.share for stage in shown.stages] == pytest.approx([1 / 9, *[2 / 9] * 4], abs=0.002)
    assert shown.schedule.total_steps == int(config.train.duration.amount) * (
        1_281_167 // config.train.global_batch_size
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_opens_with_its_command_and_what_to_expect(path: Path) -> None:
    opening = path.read_text().split("\nname:")[0]
    assert "engine.train" in opening
    assert f"configs/{path.name}" in opening
    assert "Expected: " in opening


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_opens_with_its_command_and_what_to_expect(path: Path) -> None:
    opening = path.read_text().split("\nname:")[0]
    assert "tools.study" in opening
    assert f"configs/studies/{path.name}" in opening
    assert "Expected: " in opening


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_no_two_runs_of_a_study_are_alike(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # a study names its base as seen from here
    jobs = [job for job in jobs_of(load_study(path)) if job.in_the_time_of is None]
    configs = [job.config.model_dump_json() for job in jobs]
    assert len(set(configs)) == len(configs) > 0


def test_the_study_on_photographs_differs_in_rule_and_schedule_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    spec = load_study(ROOT / "configs" / "studies" / "photographs.yaml")
    assert {key.split(".")[0] for one in spec.variants.values() for key in one.set} == {"schedule", "selection"}
    found = {(job.config.schedule.kind, job.config.selection.rule) for job in jobs_of(spec) if job.variant != "full"}
    rules = {rule for _, rule in found}
    assert {"random", "contrast"} <= rules
    assert found == {(kind, rule) for kind in ("constant", "linear") for rule in rules}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    members = []
    for number in range(12):
        members += [(f"{number:02d}.jpg", jpeg_bytes(number)), (f"{number:02d}.cls", str(number % 10).encode())]
    folder = tmp_path_factory.mktemp("photos")
    return build_index(folder, "train", [write_tar(folder / "train-0.tar", members)])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_a_step_of_two_blocks_on_a_reduced_batch(path: Path, photos: ShardIndex) -> None:
    reduced = {
        "data.train": photos.folder,
        "data.num_train_samples": "null",
        "data.levels": "[]",
        "train.global_batch_size": 6,
        "train.micro_batch_size": "null",
        "model.pretrained": "null",
        "model.options.depth": "2",
        "train.anchor": "null",
        "optim.warmup": "1steps",
        "engine.precision": "fp32",
    }
    config = load_config(path, [f"{key}={value}" for key, value in reduced.items()], preview=True)
    plan = plan_run(config, photos.num_samples, 1)
    torch.manual_seed(0)
    vit = build_run_model(config, for_training=True)
    model = masked_autoencoder(vit, config.pretrain) if config.task == "pretrain" else vit
    groups = param_groups(model, weight_decay=config.optim.weight_decay, layer_decay=config.optim.layer_decay)
    rate = learning_rate(0, peak=config.optim.lr, total_steps=plan.total_steps, warmup_steps=plan.warmup_steps)
    optimizer = build_optimizer(groups, lr=rate, betas=config.optim.betas, eps=config.optim.eps)
    planner = TrainPlanner(photos, config.data, config.selection, plan.schedule, 6, config.seed)
    with PatchLoader(
        planner,
        TrainPlans(planner, first_step=0, stop_step=1, micro_batch_size=6),
        batch_size=6,
        num_threads=2,
        snapshots=fixed_board(take_snapshot(vit, 0)) if config.selection.needs_model else None,
        targets=config.task == "pretrain",
    ) as loader:
        batch = next(loader)
    assert batch.patches.shape[:2] == (6, plan.schedule.stage(0).num_kept)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    loss = training_loss(model.train(), batch, config)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    moved = [name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])]
    assert len(moved) > 0.9 * len(before)
