"""Which checkpoint is taken up; nothing is trained here."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import create_model

from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from engine.checkpoints.manifest import MANIFEST, file_facts, files_in, step_folder, steps_in, write_manifest
from engine.checkpoints.resume import (
    FIXED_KEYS,
    NOT_DECIDING,
    SCHEME,
    SCHEME_KEY,
    Start,
    check_allowed_keys,
    check_same_run,
    choose_start,
    identity,
    operations_of,
    set_aside_newer,
)
from engine.config import RunConfig, load_config
from pipeline.operations import SUITES, Level
from pipeline.settings import Settings
from pipeline.shards.index import open_index

RUN: dict[str, Any] = {"seed": 0, "model.name": "vit", "optim.lr": 0.1, "engine.zero_stage": 0}


def saved(folder: Path, step: int, *, identity: dict[str, Any] = RUN, world_size: int = 2) -> Path:
    checkpoint = step_folder(folder, step)
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.pt").write_bytes(b"state" * step)
    files = {name: file_facts(path) for name, path in files_in(checkpoint).items()}
    write_manifest(checkpoint, {"step": step, "world_size": world_size, "identity": identity}, files)
    return checkpoint


def start(folder: Path, resume: str = "auto", **changes: Any) -> Start:
    settings = {"this_run": RUN, "allowed": [], "stop_step": 100, "world_size": 2, **changes}
    return choose_start(resume, folder, settings.pop("this_run"), **settings)


def test_a_run_without_checkpoints_starts_anew(tmp_path: Path) -> None:
    assert start(tmp_path / "checkpoints") == Start(None, False, 0, [])


def test_never_looks_at_no_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    assert start(tmp_path, "never").step == 0


def test_the_newest_checkpoint_is_taken_up(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    newest = saved(tmp_path, 20)
    assert start(tmp_path) == Start(newest, False, 20, [f"going on from {newest} at step 20"])


def test_a_damaged_checkpoint_is_passed_over_by_name(tmp_path: Path) -> None:
    good, bad = saved(tmp_path, 10), saved(tmp_path, 20)
    (bad / "state.pt").write_bytes(b"stale" * 20)
    found = start(tmp_path)
    assert (found.checkpoint, found.step) == (good, 10)
    assert found.notes[0].startswith(f"passed over {bad}: the content of its file state.pt")


def test_a_first_save_that_was_interrupted_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (saved(tmp_path, 10) / MANIFEST).unlink()
    found = start(tmp_path)
    assert (found.checkpoint, found.step) == (None, 0)
    assert "the save was interrupted" in found.notes[0]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew_by_itself(tmp_path: Path) -> None:
    (saved(tmp_path, 10) / "state.pt").unlink()
    with pytest.raises(ValueError, match=r"state\.pt is missing.*--resume never"):
        start(tmp_path)


def test_a_named_checkpoint_is_taken_though_there_are_newer_ones(tmp_path: Path) -> None:
    older = saved(tmp_path, 10)
    saved(tmp_path, 20)
    assert start(tmp_path, str(older)).checkpoint == older


def test_a_named_checkpoint_that_is_damaged_is_refused_with_the_reason(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    bad = saved(tmp_path, 20)
    (bad / "state.pt").unlink()
    with pytest.raises(ValueError, match=r"step-00000020 cannot be taken up: its file state\.pt is missing"):
        start(tmp_path, str(bad))


def test_a_conversion_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "universal-step-00000010"
    folder.mkdir()
    write_manifest(folder, {"step": 10, "converted_from": "x"}, {})
    with pytest.raises(ValueError, match="is a conversion"):
        start(tmp_path, str(folder))


def test_a_checkpoint_past_the_end_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, 20)
    with pytest.raises(ValueError, match="at step 20, past the end of this run at step 15"):
        start(tmp_path, stop_step=15)


def test_zero_0_needs_no_conversion_for_another_number_of_ranks(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, 10, world_size=4)
    found = start(tmp_path)
    assert (found.checkpoint, found.is_universal, found.source) == (checkpoint, False, checkpoint)
    assert found.notes[-1].endswith("at step 10, written by 4 rank(s)")


def test_a_conversion_remembers_the_checkpoint_it_was_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = saved(tmp_path, 10, world_size=4)
    monkeypatch.setattr(
        "engine.checkpoints.resume.universal_checkpoint", lambda _, folder: folder / "universal-step-00000010"
    )
    found = start(tmp_path, this_run={**RUN, "engine.zero_stage": 1}, allowed=["engine.zero_stage"])
    assert (found.checkpoint, found.is_universal) == (tmp_path / "universal-step-00000010", True)
    assert found.source == checkpoint


def test_a_change_is_refused_with_key_both_values_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as refusal:
        check_same_run(tmp_path, RUN, {**RUN, "seed": 1, "optim.lr": 0.2}, [])
    assert "seed: 0 there, 1 here" in str(refusal.value)
    assert "optim.lr: 0.1 there, 0.2 here" in str(refusal.value)
    assert "--allow-change seed --allow-change optim.lr" in str(refusal.value)


def test_allowed_changes_are_told_and_the_others_still_refused(tmp_path: Path) -> None:
    changed = {**RUN, "seed": 1, "optim.lr": 0.2}
    assert check_same_run(tmp_path, RUN, changed, ["seed", "optim.lr"]) == [
        "changed since the checkpoint, as allowed: seed: 0 there, 1 here",
        "changed since the checkpoint, as allowed: optim.lr: 0.1 there, 0.2 here",
    ]
    with pytest.raises(ValueError) as refusal:
        check_same_run(tmp_path, RUN, changed, ["seed"])
    assert "seed" not in str(refusal.value)


def test_no_permission_is_offered_where_none_would_help(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as refusal:
        check_same_run(tmp_path, RUN, {**RUN, "model.name": "deit", "seed": 1}, [])
    assert "--allow-change" not in str(refusal.value)


def test_keys_that_one_side_does_not_know_are_differences(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.new: '\(not recorded\)' there, 5 here"):
        check_same_run(tmp_path, RUN, {**RUN, "data.new": 5}, [])
    with pytest.raises(ValueError, match=r"data.old: 5 there, '\(not recorded\)' here"):
        check_same_run(tmp_path, {**RUN, "data.old": 5}, RUN, [])


def test_a_key_to_allow_must_exist_and_be_one_that_may_change() -> None:
    check_allowed_keys(["seed"], RUN)
    with pytest.raises(ValueError, match="did you mean seed"):
        check_allowed_keys(["sead"], RUN)
    for key in ("model.name", "engine.zero_stage"):
        with pytest.raises(ValueError, match="cannot be loaded"):
            check_allowed_keys([key], RUN)


def test_checkpoints_of_an_abandoned_course_are_set_aside(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        saved(tmp_path, step)
    (step_folder(tmp_path, 30) / MANIFEST).unlink()
    assert len(set_aside_newer(tmp_path, 10)) == 1
    assert steps_in(tmp_path) == [10]
    assert (tmp_path / "set-aside" / "step-00000020" / MANIFEST).exists()
    saved(tmp_path, 20)
    set_aside_newer(tmp_path, 10)
    assert (tmp_path / "set-aside" / "step-00000020-2" / MANIFEST).exists()


# One change of each kind that the result of training depends on, and the key it is told under.
CHANGES = {
    "seed=5": "seed",
    "data.shuffle=window": "data.shuffle",
    "data.augment.pad_pixels=2": "data.augment",
    "data.augment.mixup=0.5": "data.augment",
    "data.mean=[0.5,0.5,0.5]": "data.mean",
    "schedule.keep_rate=[0.4,1.0]": "schedule",
    "selection.rule=grid": "selection",
    "train.global_batch_size=8": "train.global_batch_size",
    "train.duration=30steps": "train.duration",
    "train.label_smoothing=0.1": "train.label_smoothing",
    "train.ema_decay=0.999": "train.ema_decay",
    "train.loss=binary_cross_entropy": "train.loss",
    "optim.lr=0.004": "optim.lr",
    "optim.weight_decay=0.1": "optim.weight_decay",
    "model.drop_path=0.1": "model.drop_path",
    "model.options.depth=3": "model.options",
    "model.reset_head=true": "model.reset_head",
    "model.head_init_std=0.00002": "model.head_init_std",
    "data.echo=2": "data.echo",
    "engine.zero_stage=2": "engine.zero_stage",
    "engine.precision=bf16": "engine.precision",
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "shards").mkdir()
    return write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards"))


def identity_of(toy: Path, *overrides: str) -> dict[str, Any]:
    return identity(load_config(toy, list(overrides)), open_index(toy.parent / "shards", "train"))


@pytest.mark.parametrize("override", CHANGES)
def test_each_change_that_matters_is_told_by_its_key(toy: Path, override: str) -> None:
    before, after = identity_of(toy), identity_of(toy, override)
    assert [key for key in before if before[key] != after[key]] == [CHANGES[override]]


def test_a_cache_is_no_part_of_the_identity_and_the_gap_of_an_echo_is(toy: Path) -> None:
    echoed = identity_of(toy, "data.echo=2")
    assert identity_of(toy, "data.echo=2", "data.cache={kind: memory, max_bytes: 1000}") == echoed
    apart = identity_of(toy, "data.echo=2", "data.echo_gap=3")
    assert [key for key in echoed if echoed[key] != apart[key]] == ["data.echo_gap"]


def test_levels_are_part_of_the_identity_where_there_are_any(toy: Path) -> None:
    crops = "data.augment.crop=resized"
    plain, levels = identity_of(toy, crops), identity_of(toy, crops, "data.levels=[256]")
    assert levels == plain | {"data.levels": [256]}


PRETRAINING = ("task=pretrain", "schedule.kind=constant", "schedule.keep_rate=0.4", "eval.keep_rates=[0.4]")


@pytest.mark.parametrize("override", ["decoder_dim=256", "decoder_depth=4", "decoder_heads=4", "norm_targets=false"])
def test_another_decoder_or_loss_is_another_run(toy: Path, override: str) -> None:
    before, after = identity_of(toy, *PRETRAINING), identity_of(toy, *PRETRAINING, f"pretrain.{override}")
    assert [key for key in before if before[key] != after[key]] == [f"pretrain.{override.partition('=')[0]}"]
    assert before["task"] != identity_of(toy)["task"]


@pytest.mark.parametrize(
    "override",
    [
        *("engine.num_threads=2", "train.micro_batch_size=2", "checkpoint.every=3steps", "eval.keep_rates=[0.6]"),
        *("name=x", "engine.compile=true", "engine.tf32=false", "train.tokens_per_micro_batch=99"),
    ],
)
def test_how_the_work_is_done_may_change(toy: Path, override: str) -> None:
    assert identity_of(toy) == identity_of(toy, override)


def test_another_route_is_another_run_and_auto_is_the_one_it_stands_for(toy: Path) -> None:
    crop = "data.augment.crop=resized"
    first, second = (identity_of(toy, crop, f"data.route={route}") for route in ("resample_first", "select_first"))
    assert [key for key in first if first[key] != second[key]] == ["data.route"]
    assert identity_of(toy, crop) == second


def test_the_keys_that_cannot_be_allowed_exist(toy: Path) -> None:
    assert set(FIXED_KEYS) <= set(identity_of(toy, "engine.precision=bf16"))


BF16 = "engine.precision=bf16"


def test_a_checkpoint_of_the_earlier_bf16_is_refused_by_name(toy: Path) -> None:
    now = identity_of(toy, BF16)
    before = {key: value for key, value in now.items() if key != SCHEME_KEY}
    with pytest.raises(
        ValueError, match=r"version whose engine\.precision bf16 kept bfloat16 weights .*--resume never"
    ):
        check_same_run(toy, before, now, [])
    assert check_same_run(toy, now, now, []) == []


def test_only_bf16_at_zero_0_records_its_scheme(toy: Path) -> None:
    recorded = {stage: identity_of(toy, BF16, f"engine.zero_stage={stage}").get(SCHEME_KEY) for stage in range(4)}
    assert recorded == {0: SCHEME, 1: None, 2: None, 3: None}
    assert SCHEME_KEY not in identity_of(toy)


def test_another_list_of_operations_is_another_run_where_it_is_drawn_from(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = "data.augment.auto={kind: randaugment}"
    before, plain = identity_of(toy, auto), identity_of(toy)
    monkeypatch.setitem(SUITES["randaugment"].levels, "grey", Level(lambda share: share))
    after = identity_of(toy, auto)
    assert [key for key in before if before[key] != after[key]] == ["data.augment.operations"]
    assert identity_of(toy) == plain


def test_another_data_set_has_another_fingerprint(toy: Path) -> None:
    validation = identity(load_config(toy), open_index(toy.parent / "shards", "val"))
    assert validation["data.train.fingerprint"] != identity_of(toy)["data.train.fingerprint"]


def test_of_several_sources_all_is_recorded_but_where_they_lie(toy: Path) -> None:
    def of(*sources: str) -> dict[str, Any]:
        return identity(load_config(toy, [f"data.train=[{', '.join(sources)}]"]), fingerprinted("abc"))

    first = of("{name: a, folder: here, share: 0.5}", "{name: b, folder: there, share: 0.5, classes: {cat: 0}}")
    assert first["data.train.sources"] == [
        {"name": "a", "share": 0.5},
        {"name": "b", "share": 0.5, "classes": {"cat": 0}},
    ]
    assert first["data.mix_per"] == "batch"
    assert of("{name: a, folder: x, share: 0.5}", "{name: b, folder: y, share: 0.5, classes: {cat: 0}}") == first
    assert of("{name: a, folder: x, share: 0.5}", "{name: b, folder: y, share: 0.5}") != first


def test_other_score_maps_are_another_run_that_is_refused_by_name(toy: Path) -> None:
    config, index = load_config(toy, ["selection={rule: map, map: bytes}"]), fingerprinted("abc")
    first, second = identity(config, index, "old"), identity(config, index, "new")
    assert first["selection"]["map"] == "bytes"
    with pytest.raises(
        ValueError, match=r"selection\.map\.fingerprint: 'old' there, 'new' here.*--allow-change selection"
    ):
        check_same_run(toy, first, second, [])
    assert check_same_run(toy, first, second, ["selection.map.fingerprint"])
    check_allowed_keys(["selection.map.fingerprint"], second)


def test_a_run_whose_images_change_their_size_is_another_run(toy: Path) -> None:
    sizes = "schedule.image_size={kind: steps, values: [[0, 16], [0.5, 32]]}"
    before, after = identity_of(toy), identity_of(toy, sizes)
    assert [key for key in after if before[key] != after[key]] == ["schedule"]
    assert after["schedule"]["image_size"]["kind"] == "steps"
    assert "patch_size" not in after["schedule"]


def test_a_strength_that_follows_a_schedule_is_another_run_and_a_number_is_recorded_as_one(toy: Path) -> None:
    number = identity_of(toy, "data.augment.mixup=0.5")
    assert number["data.augment"]["mixup"] == 0.5
    followed = identity_of(toy, "data.augment.mixup={kind: linear, values: [0, 0.5]}")
    assert [key for key in number if number[key] != followed[key]] == ["data.augment"]
    assert followed["data.augment"]["mixup"] == {"kind": "linear", "values": [0.0, 0.5], "rounding": None}


# What a new key of the configuration brings about

CONFIGS = sorted((Path(__file__).resolve().parents[3] / "configs").glob("*.yaml"))
SECTIONS = sorted(RunConfig.model_fields.keys() - {"name", "task", "seed", "log_every"})
# The identity as the checkpoints of version 0.1.0 hold it. A key that is added here makes them another run's.
RECORDED = {
    "model": ("name", "options", "drop_path", "drop_rate", "reset_head", "head_init_std"),
    "data": (
        *("image_size", "patch_size", "num_classes", "mean", "std"),
        *("augment", "shuffle", "window_shards", "echo", "echo_gap", "device"),
    ),
    "train": ("duration", "global_batch_size", "label_smoothing", "loss", "clip_grad_norm", "ema_decay"),
    "pretrain": ("decoder_dim", "decoder_depth", "decoder_heads", "norm_targets"),
    "optim": ("lr", "final_lr", "weight_decay", "betas", "eps", "warmup", "layer_decay"),
    "engine": ("zero_stage", "precision"),
}
RECORDED_SCHEDULE = ("kind", "keep_rate", "rounding", "cooldown")
RECORDED_SELECTION = ("rule", "temperature", "estimate", "estimate_size", "snapshot_at")


def recorded_identity(config: RunConfig, fingerprint: str) -> dict[str, Any]:
    """Two kinds are refused: with automatic augmentation they did not record its operations, and at ZeRO 0 bf16 was
    another."""
    scheme = {SCHEME_KEY: SCHEME} if (config.engine.zero_stage, config.engine.precision) == (0, "bf16") else {}
    operations = {} if config.data.augment.auto is None else {"data.augment.operations": operations_of(config)}
    values = config.model_dump(mode="json")
    return {
        **{key: values[key] for key in ("task", "seed")},
        "schedule": {key: values["schedule"][key] for key in (*RECORDED_SCHEDULE, *config.schedule.sizes)},
        "selection": {key: values["selection"][key] for key in RECORDED_SELECTION},
        **{f"{section}.{key}": values[section][key] for section, keys in RECORDED.items() for key in keys},
        **operations,
        **scheme,
        "data.route": config.route,
        "data.train.fingerprint": fingerprint,
    }


def fingerprinted(fingerprint: str) -> Any:
    """As much of an index as an identity is made of."""
    return SimpleNamespace(fingerprint=fingerprint)


def keys_that_came_later(config: RunConfig) -> list[str]:
    """What is recorded besides where a configuration sets it; no checkpoint of version 0.1.0 is of such a one."""
    is_mixed = isinstance(config.data.train, tuple)
    later = {
        "data.levels": bool(config.data.levels),
        "data.train.sources": is_mixed,
        "data.mix_per": is_mixed,
        "optim.decay_over": config.optim.decay_over != "steps",
        "train.anchor": config.train.anchor is not None,
    }
    return [key for key, is_set in later.items() if is_set]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_checkpoints_written_before_are_still_of_the_same_run(path: Path) -> None:
    config = load_config(path, preview=True)
    found, recorded = identity(config, fingerprinted("abc")), recorded_identity(config, "abc")
    assert found == recorded | {key: found[key] for key in keys_that_came_later(config)}


@pytest.mark.parametrize(
    "overrides",
    [
        ("data.augment.crop=resized", "data.route=auto"),
        ("data.cache={kind: disk, folder: cache, max_bytes: 1000}", "monitor.wandb={project: p}"),
        ("schedule={kind: choice, keep_rate: [[0.4, 1], [1.0, 2]]}", "selection.temperature=0.5"),
        PRETRAINING,
    ],
)
def test_settings_that_no_shipped_configuration_has_are_recorded_as_before(
    toy: Path, overrides: tuple[str, ...]
) -> None:
    config = load_config(toy, list(overrides))
    assert identity(config, fingerprinted("abc")) == recorded_identity(config, "abc")


def test_an_anchor_is_known_by_its_strength_and_by_what_it_holds_to(toy: Path) -> None:
    def anchored(path: str, strength: float, held: str) -> dict[str, Any]:
        anchor = f"train.anchor={{strength: {strength}, fisher: {path}.safetensors}}"
        config = load_config(toy, [f"model.pretrained={path}.pth", anchor])
        return identity(config, fingerprinted("abc"), anchor_fingerprint=held)

    known = anchored("here", 0.5, "old")
    assert anchored("there", 0.5, "old") == known
    for other, key in ((anchored("here", 0.25, "old"), "train.anchor"), (anchored("here", 0.5, "new"), FINGERPRINT)):
        with pytest.raises(ValueError, match=f"{key}: .* there, .* here"):
            check_same_run(toy, known, other, [])
        [note] = check_same_run(toy, known, other, [key])
        assert note.startswith(f"changed since the checkpoint, as allowed: {key}: ")


FINGERPRINT = "train.anchor.fingerprint"


def identity_with_a_new_key(toy: Path, section: str | None, value: int) -> dict[str, Any]:
    """As it would be if the program had a key ``new`` in that section, None for the top level."""
    values = load_config(toy, list(PRETRAINING)).model_dump()
    if section is None:
        wider = create_model("Wider", __base__=RunConfig, new=(int, ...))
        return identity(wider.model_validate({**values, "new": value}), fingerprinted("abc"))
    kind = RunConfig.model_fields[section].annotation
    assert kind is not None
    assert issubclass(kind, Settings)
    wider_section = create_model("WiderSection", __base__=kind, new=(int, ...))
    wider = create_model("Wider", __base__=RunConfig, **{section: (wider_section, ...)})  # type: ignore[call-overload]
    return identity(wider.model_validate({**values, section: {**values[section], "new": value}}), fingerprinted("abc"))


@pytest.mark.parametrize("section", [None, *SECTIONS])
def test_a_new_key_decides_until_someone_says_that_it_does_not(toy: Path, section: str | None) -> None:
    before, after = (identity_with_a_new_key(toy, section, value) for value in (1, 2))
    told = [key for key in before if before[key] != after[key]]
    name = "new" if section is None else f"{section}.new"
    assert told == [section if section in ("schedule", "selection") else name]
    assert before.keys() == after.keys()
    known = identity(load_config(toy, list(PRETRAINING)), fingerprinted("abc"))
    with pytest.raises(ValueError, match=f"{told[0]}: .* there, .* here"):
        check_same_run(toy, known, before, [])


@pytest.mark.parametrize("key", NOT_DECIDING)
def test_every_key_that_does_not_decide_is_one_of_the_configuration(key: str) -> None:
    values: Any = load_config(CONFIGS[0]).model_dump()
    for name in key.split("."):
        values = values[name]
    assert key not in SECTIONS, "a new key in it would be left out unseen"
