from pathlib import Path

import pytest
import yaml

from engine.config import dump_config, load_config
from pipeline.yaml_file import ConfigError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
MINIMAL = {
    "data": {"train": "shards", "val": "shards", "num_classes": 10},
    "model": {"name": "vit_tiny_patch16_224"},
    "train": {"duration": "3epochs", "global_batch_size": 8},
    "optim": {"lr": "1e-3"},
}


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "minimal.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_committed_configuration_is_valid_and_named_after_its_file(path: Path) -> None:
    assert load_config(path, preview=True).name == path.stem


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_committed_configuration_opens_with_its_command(path: Path) -> None:
    opening = path.read_text().split("\nname:")[0]
    assert f"configs/{path.name}" in opening
    assert all(line.startswith("#") or not line for line in opening.splitlines())


def test_a_name_left_out_is_the_name_of_the_file(minimal: Path) -> None:
    assert load_config(minimal).name == "minimal"


def test_a_home_folder_is_written_as_a_tilde(minimal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    places = ["data.train=~/x", "data.val=/y/~z", "data.cache={kind: disk, folder: ~/cache, max_bytes: 1}"]
    config = load_config(minimal, [*places, "model.pretrained=local-dir:~/model"])
    assert (config.data.train, config.data.val) == (Path("/home/me/x"), Path("/y/~z"))
    assert config.data.cache is not None
    assert config.data.cache.folder == Path("/home/me/cache")
    assert config.model.pretrained == "local-dir:/home/me/model"
    for source in ("timm", None):
        assert (
            load_config(minimal, [f"model.pretrained={'null' if source is None else source}"]).model.pretrained
            == source
        )


def test_numbers_in_exponent_notation_are_numbers(minimal: Path) -> None:
    assert load_config(minimal).optim.lr == 1e-3
    assert load_config(minimal, ["optim.weight_decay=5e-2"]).optim.weight_decay == 0.05


def test_overrides_set_nested_keys_and_lists(minimal: Path) -> None:
    config = load_config(minimal, ["schedule.kind=cyclic", "schedule.keep_rate=[0.2, 1.0]", "model.options.depth=4"])
    assert config.schedule.kind == "cyclic"
    assert config.schedule.keep_rate == [0.2, 1.0]
    assert config.model.options == {"depth": 4}


def test_the_last_of_several_overrides_of_a_key_wins(minimal: Path) -> None:
    assert load_config(minimal, ["seed=1", "seed=2"]).seed == 2


def test_a_dumped_configuration_reads_back_the_same(minimal: Path, tmp_path: Path) -> None:
    config = load_config(minimal, ["checkpoint.every=500steps", "train.duration=1.5epochs"])
    (tmp_path / "dumped.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "dumped.yaml") == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.micro_batch_size=4", "train.tokens_per_micro_batch=99"], r"train: .*set one of them"),
        (["optim.lrr=1"], r"unknown key 'optim.lrr'; did you mean 'lr'"),
        (["schedul.kind=linear"], r"unknown key 'schedul'; did you mean 'schedule'"),
        (["data.augment.scales=1"], r"did you mean 'scale'"),
        (["data.augment.auto={kind: randaugment, magnitud: 9}"], r"did you mean 'magnitude'"),
        (["train.loss=bce"], r"train.loss: Input should be 'cross_entropy' or 'binary_cross_entropy', got 'bce'"),
        (["train.xyzzy=1"], r"known keys here: duration, global_batch_size"),
        (["train.global_batch_size=none"], r"train.global_batch_size.*'none'"),
        (["engine.zero_stage=4"], r"engine.zero_stage"),
        (["train.duration=90"], r"90epochs, 500steps or 1000000samples; got 90"),
        (["eval.keep_rates=[0.0]"], r"keep rate lies in \(0, 1\], got 0"),
        (["eval.keep_rates=[0.001]"], r"keeps none of 196 patches"),
        (["seed"], r"--set takes key=value"),
        (["seed=[1"], r"not a valid YAML value"),
        (["seed.x=1"], r"unknown key|seed"),
        (["model.name.x=1"], r"name is a value, not a section"),
        (["optim={lr: 1, lr: 2}"], r"--set optim: .*the key 'lr' stands there twice, in line 1"),
        (["optim.lr=.inf"], r"optim.lr: Input should be a finite number, got inf"),
        (["optim.betas=[0.9, 1]"], r"optim.betas.1: Input should be less than 1, got 1"),
        (["optim.lr=true"], r"optim.lr: a number is asked for, got true"),
        (["engine.zero_stage=true"], r"engine.zero_stage: a number is asked for, got true"),
        (["data.mean=[0.5, 0.5, .nan]"], r"data.mean.2: Input should be a finite number, got nan"),
        (["data.std=[0, 1, 1]"], r"data.std.0: Input should be greater than or equal to 0.001"),
        (["data.image_size=100000000000000000000"], r"data.image_size: Input should be less than or equal to 1000000"),
        (["model.options.init_values=.nan"], r"model.options.init_values: a number is at most 1,000,000 .* finite"),
        (["model.options.depth=100000"], r"model.options: depth is at most 1000, got 100000"),
        (["model.options.embed_dim=2026-01-01"], r"model.options.embed_dim: a number, text, true, false, null"),
        (["schedule.rounding=1.0e-300"], r"rounding is 1e-06 or more; null turns it off"),
        (["name=''"], r"name: String should have at least 1 character"),
    ],
)
def test_a_wrong_key_or_value_is_explained(minimal: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(minimal, overrides)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in MINIMAL.items() if key != "optim"}))
    with pytest.raises(ConfigError, match="missing key 'optim'"):
        load_config(path)


def test_a_missing_file_a_broken_file_and_a_list_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="mapping of keys"):
        load_config(tmp_path / "list.yaml")


def test_a_key_that_stands_twice_in_a_file_is_named_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("seed: 1\noptim:\n  lr: 1\ntrain: {}\noptim:\n  lr: 2\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml .*the key 'optim' stands there twice, in lines 2 and 5"):
        load_config(path)


def test_of_many_faults_the_first_ones_are_told_and_the_others_counted(minimal: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval.keep_rates.9: .*; and 20 more$") as error:
        load_config(minimal, [f"eval.keep_rates=[{'.nan, ' * 30}]"])
    assert "keep_rates.10" not in str(error.value)


def test_a_configuration_cannot_run_code(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("name: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "evil.yaml")


# Pretrained weights


@pytest.mark.parametrize(
    ("written", "meant"), [("true", "timm"), ("timm", "timm"), ("false", None), ("null", None), ("w.pth", "w.pth")]
)
def test_pretrained_may_be_said_as_timm_says_it(minimal: Path, written: str, meant: str | None) -> None:
    assert load_config(minimal, [f"model.pretrained={written}"]).model.pretrained == meant


@pytest.mark.parametrize(("source", "told"), [("true", "timm"), ("false", "null")])
def test_a_key_of_weights_needs_a_file(minimal: Path, source: str, told: str) -> None:
    key = "model.pretrained_key=state_dict_ema"
    assert load_config(minimal, [key, "model.pretrained=w.pth.tar"]).model.pretrained_key == "state_dict_ema"
    with pytest.raises(ConfigError, match=f"pretrained_key state_dict_ema chooses .* pretrained is {told}; set"):
        load_config(minimal, [key, f"model.pretrained={source}"])


# Averages and pre-training

PRETRAINING = ["task=pretrain", "selection.rule=random", "schedule.keep_rate=0.25", "eval.keep_rates=[0.25]"]


def test_an_average_of_divided_weights_is_refused(minimal: Path) -> None:
    assert load_config(minimal, ["train.ema_decay=0.99", "engine.zero_stage=2"]).train.ema_decay == 0.99
    with pytest.raises(ConfigError, match=r"train\.ema_decay .* engine\.zero_stage 3 divides; choose"):
        load_config(minimal, ["train.ema_decay=0.99", "engine.zero_stage=3"])


def test_examples_that_an_epoch_shows_several_times_are_not_left_out(minimal: Path) -> None:
    examples = "schedule.examples={rule: loss, keep: 0.7}"
    assert load_config(minimal, [examples]).schedule.examples is not None
    with pytest.raises(ConfigError, match=r"data.echo 2 shows them several times; set data.echo to 1"):
        load_config(minimal, [examples, "data.echo=2"])


def test_pretraining_needs_patches_to_reconstruct(minimal: Path) -> None:
    assert load_config(minimal, PRETRAINING).task == "pretrain"
    for override, key in (
        ("schedule.keep_rate=1.0", r"schedule\.keep_rate"),
        ("eval.keep_rates=[0.25, 1.0]", r"eval\.keep_rates"),
        ("schedule.cooldown=1epochs", r"schedule\.cooldown"),
    ):
        with pytest.raises(ConfigError, match=f"{key}.*nothing to reconstruct"):
            load_config(minimal, [*PRETRAINING, override])


@pytest.mark.parametrize("override", ["train.label_smoothing=0.1", "model.drop_rate=0.1", "optim.layer_decay=0.7"])
def test_what_only_a_classifier_has_is_refused_in_pretraining(minimal: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=f"{override.partition('=')[0]} belongs to a classifier"):
        load_config(minimal, [*PRETRAINING, override])


def test_a_decoder_without_pretraining_is_refused(minimal: Path) -> None:
    with pytest.raises(ConfigError, match="task is classify; set task to pretrain"):
        load_config(minimal, ["pretrain.decoder_depth=2"])


def test_the_decoders_heads_divide_its_width(minimal: Path) -> None:
    with pytest.raises(ConfigError, match="decoder_heads 3 does not divide decoder_dim 64"):
        load_config(minimal, [*PRETRAINING, "pretrain.decoder_dim=64", "pretrain.decoder_heads=3"])


def test_a_route_that_the_configuration_does_not_allow_is_refused_with_the_reason(minimal: Path) -> None:
    assert load_config(minimal).route == "select_first"
    assert load_config(minimal, ["data.augment.color_jitter=0.4"]).route == "select_first"
    assert load_config(minimal, ["data.augment.crop=pad"]).route == "resample_first"
    with pytest.raises(ConfigError, match=r"data\.route is select_first, but data\.augment\.crop pad shifts images"):
        load_config(minimal, ["data.route=select_first", "data.augment.crop=pad"])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["schedule.image_size={kind: constant, values: 27}"], "schedule.image_size: patches of 4 pixels do not tile"),
        (
            ["schedule.patch_size={kind: linear, values: [7, 14]}"],
            "schedule.patch_size: 7 pixels is not on the rounding",
        ),
        (
            ["schedule.image_size={kind: constant, values: 20}", "selection.rule=magnitude"],
            "schedule.image_size: selection.rule magnitude scores patches of one size",
        ),
        (
            ["schedule={keep_rate: 0.4, image_size: {kind: constant, values: 20}}", "task=pretrain"],
            "schedule.image_size: a decoder reconstructs images of one size",
        ),
    ],
)
def test_sizes_that_the_rest_does_not_follow_are_refused_by_name(
    minimal: Path, overrides: list[str], told: str
) -> None:
    sizes = ["data.image_size=28", "data.patch_size=4", "eval.keep_rates=[0.4]"]
    with pytest.raises(ConfigError, match=told):
        load_config(minimal, [*sizes, *overrides])
