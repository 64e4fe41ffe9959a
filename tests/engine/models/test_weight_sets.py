"""Files that wrap names, and files that hold several sets of weights."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from engine.models.build import build_model
from engine.models.patch_embed import PatchModel
from engine.models.weight_sets import choose_weights
from engine.models.weights import LoadReport, load_pretrained

Names = dict[str, Tensor]


def vit(seed: int = 0, **changes: Any) -> PatchModel:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"image_size": 16, "patch_size": 4, "num_classes": 5, "mean": (0.5,) * 3} | changes
    options = {"embed_dim": 24, "depth": 2, "num_heads": 2}
    return build_model("vit_tiny_patch16_224", std=(0.5,) * 3, options=options, **settings)


@cache
def _state(seed: int) -> Names:
    return vit(seed).state_dict()


def names_of(seed: int, prefix: str = "", *, head: bool = True) -> Names:
    """A whole ViT's weights, told from others by their seed."""
    state = _state(seed)
    return {prefix + name: value for name, value in state.items() if head or not name.startswith("head.")}


def dinos_head(prefix: str) -> Names:
    return {f"{prefix}head.mlp.0.weight": torch.zeros(8, 24), f"{prefix}head.last_layer.weight_g": torch.zeros(8, 1)}


def load(path: Path, content: Any, key: str | None = None) -> tuple[LoadReport, int]:
    """The report, and the seed of the weights that the model has got."""
    torch.save(content, path)
    model = vit(seed=99)
    report = load_pretrained(model, str(path), key=key)
    weight = model.state_dict()["blocks.1.attn.qkv.weight"]
    [seed] = [seed for seed in range(4) if torch.equal(weight, names_of(seed)["blocks.1.attn.qkv.weight"])]
    return report, seed


@pytest.mark.parametrize(
    "prefix",
    [
        *("model.", "module.", "backbone.", "encoder.", "teacher.", "student.", "base_encoder.", "_orig_mod."),
        *("module.base_encoder.", "module._orig_mod.", "_orig_mod.module.", "teacher.backbone.", "model.my_own.vit."),
    ],
)
def test_whatever_wraps_the_names_is_taken_off(tmp_path: Path, prefix: str) -> None:
    report, seed = load(tmp_path / "w.pth", {"state_dict": names_of(1, prefix), "epoch": 7})
    assert (len(report.loaded), seed) == (len(names_of(1)), 1)
    assert report.missing == report.unexpected == report.others == ()
    assert "taken" not in str(report)


@pytest.mark.parametrize("name", ["w.pth.tar", "w.ckpt", "w.pt", "w.bin"])
def test_all_endings_of_pickled_weights_are_taken(tmp_path: Path, name: str) -> None:
    assert load(tmp_path / name, {"state_dict": names_of(1, "module."), "hyper_parameters": {"lr": 0.1}})[1] == 1


def test_marks_of_compiled_blocks_are_taken_off_inside_of_names(tmp_path: Path) -> None:
    compiled = {name.replace("blocks.0.", "blocks.0._orig_mod."): value for name, value in names_of(1).items()}
    assert load(tmp_path / "w.pth", compiled)[0].missing == ()


SEVERAL: dict[str, tuple[Callable[[], Any], str, dict[str, tuple[str, int]]]] = {
    "timm's training": (
        lambda: {"epoch": 3, "state_dict": names_of(1), "state_dict_ema": names_of(2)},
        "state_dict",
        {"state_dict_ema": ("state_dict_ema", 2), "state_dict": ("state_dict", 1)},
    ),
    "DeiT's training": (
        lambda: {"model_ema": names_of(2), "model": names_of(1), "args": None},
        "model",
        {"model_ema": ("model_ema", 2)},
    ),
    "DINO": (
        lambda: {
            "student": names_of(2, "module.backbone.", head=False) | dinos_head("module."),
            "teacher": names_of(1, "backbone.", head=False) | dinos_head(""),
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
        },
        "teacher.backbone",
        {"student": ("student.module.backbone", 2), "teacher": ("teacher.backbone", 1)},
    ),
    "DINO in one state dict": (
        lambda: {"state_dict": names_of(2, "student.backbone.") | names_of(1, "teacher.backbone.")},
        "state_dict.teacher.backbone",
        {"student.backbone": ("state_dict.student.backbone", 2)},
    ),
    "MoCo v3": (
        lambda: {
            "arch": "vit_small",
            "state_dict": names_of(1, "module.base_encoder.", head=False)
            | names_of(2, "module.momentum_encoder.", head=False)
            | {"module.predictor.0.weight": torch.zeros(4, 4)},
        },
        "state_dict.module.base_encoder",
        {"momentum_encoder": ("state_dict.module.momentum_encoder", 2)},
    ),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_of_several_sets_one_is_taken_and_told_and_any_can_be_chosen(tmp_path: Path, kind: str) -> None:
    make, first, choices = SEVERAL[kind]
    report, seed = load(tmp_path / "w.pth", make())
    assert (report.place, seed) == (first, 1)
    assert f"taken: {first}; the file also holds " in str(report)
    assert "(model.pretrained_key chooses)" in str(report)
    for key, (place, expected) in choices.items():
        report, seed = load(tmp_path / "w.pth", make(), key)
        assert (report.place, seed) == (place, expected)
        assert report.others


def test_names_that_were_not_understood_are_listed_and_counted(tmp_path: Path) -> None:
    report, _ = load(tmp_path / "w.pth", {"teacher": names_of(1, "backbone.", head=False) | dinos_head("")})
    assert report.unexpected == ("head.mlp.0.weight", "head.last_layer.weight_g")
    assert report.missing == ("head.weight", "head.bias")
    many = {f"queue.{i}": torch.zeros(2) for i in range(40)}
    text = str(load(tmp_path / "w.pth", {"model": names_of(1) | many, "loss": {"centre": torch.zeros(2)}})[0])
    assert "not used: queue.0, queue.1, queue.2, queue.3, queue.4, queue.5 and 35 more" in text


def test_a_decoder_of_the_same_shape_is_no_other_set(tmp_path: Path) -> None:
    decoder = {name: value for name, value in names_of(2, "decoder.").items() if ".blocks." in name}
    report, seed = load(tmp_path / "w.pth", {"model": names_of(1, "encoder.") | decoder})
    assert (report.place, report.others, seed) == ("model.encoder", (), 1)
    assert set(report.unexpected) == set(decoder)


def test_a_key_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    content = {"state_dict": names_of(1), "state_dict_ema": names_of(2)}
    with pytest.raises(ValueError, match=r"under model\.pretrained_key 'ema'; there are: state_dict, state_dict_ema$"):
        load(tmp_path / "w.pth", content, "ema")
    torch.save({"weights": {"layer1.weight": torch.zeros(2)}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"under model\.pretrained_key 'ema'; its keys with weights: weights$"):
        load_pretrained(vit(), str(tmp_path / "w.pth"), key="ema")


def test_where_nothing_tells_which_to_take_the_key_is_asked_for(tmp_path: Path) -> None:
    content = names_of(1, "left.") | names_of(2, "right.")
    with pytest.raises(ValueError, match=r"several sets .*; set model\.pretrained_key to one of: left, right$"):
        load(tmp_path / "w.pth", content)
    assert load(tmp_path / "w.pth", content, "right")[1] == 2


def test_published_weights_have_no_key() -> None:
    with pytest.raises(ValueError, match=r"leave out model\.pretrained_key, got 'teacher'"):
        load_pretrained(vit(), "timm", key="teacher")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("under", [None, "model"])
def test_a_whole_pickled_model_is_named_as_such_and_runs_nothing(tmp_path: Path, under: str | None, old: bool) -> None:
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=2)
    content = model if under is None else {under: model, "epoch": 3}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match=r"a whole pickled model.*torch\.save\(model\.state_dict\(\), PATH\)"):
        load_pretrained(vit(), str(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.bin"])
def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 346293852\n")
    with pytest.raises(ValueError, match=rf"{name} is a Git LFS pointer.*git lfs pull"):
        load_pretrained(vit(), str(tmp_path / name))


def test_a_folder_without_its_kind_is_told_how_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"for a folder write local-dir:{tmp_path}$"):
        load_pretrained(vit(), str(tmp_path))


def test_plain_names_are_taken_before_those_of_a_set_beside_them(tmp_path: Path) -> None:
    report, seed = load(tmp_path / "w.pth", names_of(1) | names_of(2, "ema.module."))
    assert (report.others, report.unexpected, seed) == (("ema.module",), (), 1)
    assert "taken: the plain names; the file also holds ema.module" in str(report)
    assert load(tmp_path / "w.pth", names_of(1) | names_of(2, "ema.module."), "ema")[1] == 2


def test_of_foreign_names_those_that_are_there_are_told(tmp_path: Path) -> None:
    torch.save({"weights": {"layer1.weight": torch.zeros(2)}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"none of the model's backbone parameters .* holds layer1\.weight"):
        load_pretrained(vit(), str(tmp_path / "w.pth"))


def test_names_for_timms_own_conversions_stay_as_they_are() -> None:
    clip = {
        "visual.class_embedding": torch.zeros(2),
        "visual.conv1.weight": torch.zeros(2),
        "logit_scale": torch.ones(1),
    }
    assert choose_weights({"state_dict": clip}, names_of(0), "w.pth").state == clip
    trunk = names_of(1, "visual.trunk.") | {"visual.head.proj.weight": torch.zeros(5, 24)}
    assert choose_weights({"": trunk}, names_of(0), "w.pth").state == trunk
