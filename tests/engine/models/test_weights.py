import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from patch_models import cut_patches, make_ids, make_images, make_pair, normalized
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from engine.models import weights
from engine.models.build import build_model
from engine.models.patch_embed import PatchModel
from engine.models.weights import export_model, load_pretrained
from pipeline.config import DataConfig

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
SMALL: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 2}


def small_vit(seed: int = 0, **changes: Any) -> PatchModel:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"image_size": 16, "patch_size": 4, "num_classes": 5, "options": SMALL}
    model = build_model("vit_tiny_patch16_224", mean=MEAN, std=STD, **(settings | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def snapshot(model: PatchModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def data_of(model: PatchModel) -> DataConfig:
    """Data such as the model was made for."""
    return DataConfig(
        train="shards",
        val="shards",
        num_classes=model.num_classes,
        image_size=model.patch_embed.img_size[0],
        patch_size=model.patch_embed.patch_size[0],
        mean=model.mean,
        std=model.std,
    )


def export(model: PatchModel, folder: Path, class_names: list[str] | None = None) -> None:
    export_model(
        model.state_dict(),
        folder,
        timm_name=model.timm_name,
        model_args=model.timm_args,
        data=data_of(model),
        class_names=class_names,
    )


def save_plain(path: Path, state: dict[str, Tensor], wrapped_in: str | None, prefix: str = "") -> str:
    state = {prefix + name: value for name, value in state.items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({wrapped_in: state, "epoch": 3} if wrapped_in else state, path)
    return str(path)


@pytest.mark.parametrize(
    ("file_name", "wrapped_in", "prefix"),
    [
        ("weights.safetensors", None, ""),
        ("weights.pth", None, ""),
        ("weights.pth", "model", ""),
        ("weights.pt", "state_dict", "module."),
    ],
)
def test_every_layout_of_a_file_fills_the_whole_model(
    tmp_path: Path, file_name: str, wrapped_in: str | None, prefix: str
) -> None:
    source, target = small_vit(seed=1), small_vit(seed=2)
    path = save_plain(tmp_path / file_name, snapshot(source), wrapped_in, prefix)
    report = load_pretrained(target, path)
    assert report.loaded == tuple(source.state_dict())
    assert report.missing == report.unexpected == report.shape_mismatched == report.resampled == ()
    assert str(report) == f"pretrained weights from {path}: 32 parameters loaded"
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


def test_a_classifier_of_another_size_keeps_its_initialisation(tmp_path: Path) -> None:
    source, target = small_vit(seed=1), small_vit(seed=2, num_classes=9)
    before = snapshot(target)
    report = load_pretrained(target, save_plain(tmp_path / "w.pth", snapshot(source), None))
    assert report.shape_mismatched == ("head.weight", "head.bias")
    assert "left at their initialisation: head.weight, head.bias" in str(report)
    for name, value in target.state_dict().items():
        expected = before[name] if name.startswith("head.") else source.state_dict()[name]
        assert torch.equal(value, expected), name


def test_positions_are_resampled_to_another_grid(tmp_path: Path) -> None:
    source, target = small_vit(seed=1), small_vit(seed=2, image_size=32)
    report = load_pretrained(target, save_plain(tmp_path / "w.pth", snapshot(source), None))
    assert report.resampled == ("pos_embed",)
    assert "resampled: pos_embed" in str(report)
    expected = resample_abs_pos_embed(source.pos_embed.detach(), [8, 8], [4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(target.pos_embed.detach(), expected)


def test_the_patch_kernel_is_resampled_to_another_patch_size(tmp_path: Path) -> None:
    source, target = small_vit(seed=1), small_vit(seed=2, image_size=32, patch_size=8)
    report = load_pretrained(target, save_plain(tmp_path / "w.pth", snapshot(source), None))
    assert report.resampled == ("patch_embed.proj.weight",)
    # A patch of one colour is embedded as before, which is what the resampling is made to keep.
    small = source.patch_embed.proj(torch.ones(1, 1, 4 * 4 * 3))
    torch.testing.assert_close(target.patch_embed.proj(torch.ones(1, 1, 8 * 8 * 3)), small, rtol=0, atol=1e-4)


def test_leftovers_of_pretraining_are_named_and_a_new_norm_stays_as_it_was(tmp_path: Path) -> None:
    source, target = small_vit(seed=1), small_vit(seed=2, options=SMALL | {"global_pool": "avg"})
    state = snapshot(source) | {"decoder_blocks.0.attn.qkv.weight": torch.zeros(2, 2)}
    report = load_pretrained(target, save_plain(tmp_path / "w.pth", state, "model"))
    assert report.missing == ("fc_norm.weight", "fc_norm.bias")
    assert set(report.unexpected) == {"norm.weight", "norm.bias", "decoder_blocks.0.attn.qkv.weight"}
    assert "left at their initialisation: fc_norm.weight, fc_norm.bias" in str(report)
    assert "in the source only, not used: " in str(report)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": SMALL | {"depth": 3}}, "blocks.2.norm1.weight is not in the file"),
        ({"options": SMALL | {"depth": 1}}, "blocks.1.norm1.weight is not in the model"),
        ({"options": SMALL | {"embed_dim": 32}}, r"cls_token is \[1, 1, 24\] in the file, \[1, 1, 32\] in"),
        ({"options": SMALL | {"reg_tokens": 2}}, "reg_token is not in the file|cannot be brought"),
        ({"options": SMALL | {"init_values": 0.1}}, "ls1.gamma is not in the file"),
        ({"options": SMALL | {"no_embed_class": True}}, "cannot be brought"),
    ],
)
def test_weights_of_another_architecture_are_refused_and_change_nothing(
    tmp_path: Path, changes: dict, message: str
) -> None:
    target = small_vit(seed=2, **changes)
    before = snapshot(target)
    path = save_plain(tmp_path / "w.pth", snapshot(small_vit(seed=1)), None)
    with pytest.raises(ValueError, match=message):
        load_pretrained(target, path)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_a_file_with_none_of_the_models_parameters_is_refused(tmp_path: Path) -> None:
    path = save_plain(tmp_path / "w.safetensors", {"layer1.weight": torch.zeros(3)}, None)
    with pytest.raises(ValueError, match=r"none of the model's backbone parameters .* holds layer1.weight"):
        load_pretrained(small_vit(), path)


class RunsCode:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("code-was-run",)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": snapshot(small_vit()), "surprise": RunsCode()}, tmp_path / "w.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(RunsCode(), protocol=2))
    for name in ("w.pth", "bare.pth"):
        with pytest.raises(ValueError, match=r"files that need code to be run are refused"):
            load_pretrained(small_vit(), str(tmp_path / name))
    assert not (tmp_path / "code-was-run").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        load_pretrained(small_vit(), str(tmp_path / name))


@pytest.mark.parametrize("source", ["nowhere.pth", "nowhere.safetensors", "local-dir:nowhere"])
def test_a_source_that_is_not_there_is_named(source: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"no (pretrained weights at|weights in) nowhere"):
        load_pretrained(small_vit(), source)


def test_an_unknown_kind_of_source_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"'imagenet': give timm, local-dir:DIR"):
        load_pretrained(small_vit(), "imagenet")


def test_the_published_weights_of_a_timm_name_are_fitted_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    # Stands in for the download: timm's model of that name, as it is built before weights are fetched.
    torch.manual_seed(5)
    published = timm.create_model("vit_tiny_patch16_224")
    asked: list[tuple[str, bool]] = []

    def create_model(name: str, pretrained: bool) -> torch.nn.Module:
        asked.append((name, pretrained))
        return published

    model = build_model(
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        image_size=96,
        patch_size=16,
        num_classes=10,
        mean=MEAN,
        std=STD,
    )
    monkeypatch.setattr(weights.timm, "create_model", create_model)
    report = load_pretrained(model, "timm")
    assert asked == [("vit_tiny_patch16_224.augreg_in21k_ft_in1k", True)]
    assert report.resampled == ("pos_embed",)
    assert torch.equal(model.state_dict()["blocks.11.mlp.fc2.weight"], published.blocks[11].mlp.fc2.weight)


def test_a_name_without_published_weights_is_refused() -> None:
    model = build_model(
        "vit_tiny_patch16_384", image_size=32, patch_size=16, num_classes=2, mean=MEAN, std=STD, options=SMALL
    )
    model.timm_name = "vit_base_patch32_plus_256"
    with pytest.raises(ValueError, match="timm publishes no weights for 'vit_base_patch32_plus_256'"):
        load_pretrained(model, "timm")


@pytest.mark.parametrize(
    "options",
    [SMALL, SMALL | {"global_pool": "avg", "class_token": False, "reg_tokens": 2, "no_embed_class": True}],
)
def test_plain_timm_reads_an_export_and_gives_the_same_logits(tmp_path: Path, options: dict) -> None:
    model = small_vit(seed=1, options=options, drop_path=0.2).eval()
    export(model, tmp_path / "model", class_names=["a", "b", "c", "d", "e"])
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    plain = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    assert tuple(plain.pretrained_cfg["mean"]) == MEAN
    assert tuple(plain.pretrained_cfg["std"]) == STD
    assert tuple(plain.pretrained_cfg["input_size"]) == (3, 16, 16)
    assert plain.pretrained_cfg["label_names"] == ["a", "b", "c", "d", "e"]
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    patches = images.reshape(3, 3, 4, 4, 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(3, 16, 48)
    normalized = (images / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(
            model(patches, torch.arange(16).repeat(3, 1)), plain(normalized), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    "kind", ["distilled", "BEiT, as SimMIM fine-tunes it", "BEiT, shared table", "EVA-02", "DINOv3", "learned rotary"]
)
def test_plain_timm_reads_an_export_of_every_family(tmp_path: Path, kind: str) -> None:
    model, _ = make_pair(kind)
    export(model, tmp_path)
    plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images, ids = make_images(model), make_ids(model, model.patch_embed.num_patches)
    patches = cut_patches(images, ids, model.patch_embed.patch_size[0])
    with torch.no_grad():
        torch.testing.assert_close(model(patches, ids), plain(normalized(images)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["distilled", "BEiT, all kinds of positions", "EVA-02", "DINOv3", "learned rotary"])
def test_an_export_of_every_family_is_a_source_of_pretrained_weights(tmp_path: Path, kind: str) -> None:
    source, _ = make_pair(kind)
    export(source, tmp_path)
    target, _ = make_pair(kind)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.zero_()
    report = load_pretrained(target, f"local-dir:{tmp_path}")
    assert report.missing == report.unexpected == report.shape_mismatched == report.resampled == ()
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


def test_an_export_does_not_claim_the_origin_of_timms_weights(tmp_path: Path) -> None:
    export(small_vit(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch16_224"
    assert not {"tag", "origin_url", "license"} & set(config["pretrained_cfg"])
    assert "hf_hub_id" not in json.dumps(config)


def test_an_export_says_how_it_was_validated(tmp_path: Path) -> None:
    model = small_vit()
    export_model(
        model.state_dict(),
        tmp_path,
        timm_name=model.timm_name,
        model_args=model.timm_args,
        data=data_of(model).model_copy(update={"val_crop_fraction": 0.7}),
        class_names=None,
    )
    plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    found = timm.data.resolve_data_config({}, model=plain)
    assert found | {"input_size": tuple(found["input_size"])} == {
        "input_size": (3, 16, 16),
        "interpolation": "bilinear",
        "crop_pct": 0.7,
        "crop_mode": "center",
        "mean": list(MEAN),
        "std": list(STD),
    }


def test_an_export_is_a_source_of_pretrained_weights(tmp_path: Path) -> None:
    source, target = small_vit(seed=1), small_vit(seed=2)
    export(source, tmp_path)
    report = load_pretrained(target, f"local-dir:{tmp_path}")
    assert len(report.loaded) == len(source.state_dict())
    assert torch.equal(target.head.weight, source.head.weight)


def test_an_export_replaces_an_earlier_one(tmp_path: Path) -> None:
    export(small_vit(seed=1), tmp_path)
    export(small_vit(seed=2), tmp_path)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["head.weight"], small_vit(seed=2).head.weight)


def test_an_export_of_another_models_weights_is_refused(tmp_path: Path) -> None:
    model, other = small_vit(), small_vit(options=SMALL | {"depth": 1})
    with pytest.raises(ValueError, match="these weights are not those of vit_tiny_patch16_224"):
        export_model(
            other.state_dict(),
            tmp_path / "model",
            timm_name=model.timm_name,
            model_args=model.timm_args,
            data=data_of(model),
            class_names=None,
        )
    assert not (tmp_path / "model").exists()


def test_class_names_must_fit_the_number_of_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 class names for 5 classes"):
        export(small_vit(), tmp_path, class_names=["cat", "dog"])


def test_a_model_is_built_with_pretrained_weights_and_keeps_the_report(tmp_path: Path) -> None:
    source = small_vit(seed=1)
    export(source, tmp_path)
    model = build_model(
        "vit_tiny_patch16_224",
        image_size=16,
        patch_size=4,
        num_classes=5,
        mean=MEAN,
        std=STD,
        options=SMALL,
        pretrained=f"local-dir:{tmp_path}",
    )
    assert model.load_report is not None
    assert model.load_report.missing == ()
    assert torch.equal(model.blocks[1].attn.qkv.weight, source.blocks[1].attn.qkv.weight)
