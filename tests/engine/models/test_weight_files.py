"""Weights as MAE and SimMIM publish them, and files that would like to run code."""

import argparse
import os
import pickle
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import resize_rel_pos_bias_table
from torch import Tensor

from engine.models.build import build_model
from engine.models.patch_embed import PatchModel
from engine.models.weights import load_pretrained

WIDTH, DEPTH, HEADS, GRID = 24, 2, 2, 4
SMALL: dict[str, Any] = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}


def build(name: str, *, image_size: int = 16, options: dict[str, Any] | None = None, **more: Any) -> PatchModel:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"patch_size": 4, "num_classes": 5, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return build_model(name, image_size=image_size, options=SMALL | (options or {}), **(settings | more))


def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def block_shapes(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}.norm1.weight": (width,),
        f"{prefix}.norm1.bias": (width,),
        f"{prefix}.attn.qkv.weight": (3 * width, width),
        f"{prefix}.attn.proj.weight": (width, width),
        f"{prefix}.attn.proj.bias": (width,),
        f"{prefix}.norm2.weight": (width,),
        f"{prefix}.norm2.bias": (width,),
        f"{prefix}.mlp.fc1.weight": (4 * width, width),
        f"{prefix}.mlp.fc1.bias": (4 * width,),
        f"{prefix}.mlp.fc2.weight": (width, 4 * width),
        f"{prefix}.mlp.fc2.bias": (width,),
    }


def mae_encoder() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, GRID**2 + 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 4, 4),
        "patch_embed.proj.bias": (WIDTH,),
    }
    for i in range(DEPTH):
        shapes |= block_shapes(f"blocks.{i}", WIDTH) | {f"blocks.{i}.attn.qkv.bias": (3 * WIDTH,)}
    return shapes


def mae_decoder() -> dict[str, tuple[int, ...]]:
    return {
        "mask_token": (1, 1, 16),
        "decoder_pos_embed": (1, GRID**2 + 1, 16),
        "decoder_embed.weight": (16, WIDTH),
        "decoder_embed.bias": (16,),
        **block_shapes("decoder_blocks.0", 16),
        "decoder_blocks.0.attn.qkv.bias": (48,),
        "decoder_norm.weight": (16,),
        "decoder_norm.bias": (16,),
        "decoder_pred.weight": (48, 16),
        "decoder_pred.bias": (48,),
    }


def simmim(*, finetuned: bool) -> dict[str, tuple[int, ...]]:
    table = ((2 * GRID - 1) ** 2 + 3, HEADS)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 4, 4),
        "patch_embed.proj.bias": (WIDTH,),
    }
    for i in range(DEPTH):
        block = f"blocks.{i}"
        shapes |= block_shapes(block, WIDTH)
        shapes |= {f"{block}.{name}": (WIDTH,) for name in ("gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias")}
        if finetuned:
            shapes[f"{block}.attn.relative_position_bias_table"] = table
            shapes[f"{block}.attn.relative_position_index"] = (GRID**2 + 1, GRID**2 + 1)
    if finetuned:
        return shapes | {
            "fc_norm.weight": (WIDTH,),
            "fc_norm.bias": (WIDTH,),
            "head.weight": (5, WIDTH),
            "head.bias": (5,),
        }
    shapes |= {
        "mask_token": (1, 1, WIDTH),
        "rel_pos_bias.relative_position_bias_table": table,
        "rel_pos_bias.relative_position_index": (GRID**2 + 1, GRID**2 + 1),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    decoder = {"decoder.0.weight": (48, WIDTH, 1, 1), "decoder.0.bias": (48,)}
    return {f"encoder.{name}": shape for name, shape in shapes.items()} | decoder


NORM: dict[str, tuple[int, ...]] = {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}


def test_maes_published_encoder_fills_everything_but_the_head(tmp_path: Path) -> None:
    state = tensors(mae_encoder() | NORM)
    torch.save({"model": state}, tmp_path / "mae.pth")
    model = build("vit_tiny_patch16_224")
    report = load_pretrained(model, str(tmp_path / "mae.pth"))
    assert set(report.loaded) == set(state)
    assert (report.missing, report.unexpected) == (("head.weight", "head.bias"), ())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


def test_a_checkpoint_of_maes_pretraining_names_what_is_not_used_and_fills_a_model_that_pools(tmp_path: Path) -> None:
    state = tensors(mae_encoder() | NORM | mae_decoder())
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    args = argparse.Namespace(batch_size=64, output_dir=Path("/out"), lr=None, betas=(0.9, 0.95), dist_url="env://")
    content = {"model": state, "optimizer": optimizer, "epoch": 799, "scaler": {"scale": 1.0}, "args": args}
    torch.save(content, tmp_path / "mae.pth")
    model = build("vit_tiny_patch16_224", options={"global_pool": "avg"})
    report = load_pretrained(model, str(tmp_path / "mae.pth"))
    assert set(report.loaded) == set(mae_encoder())
    assert set(report.missing) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert set(report.unexpected) == set(mae_decoder()) | set(NORM)
    assert "in the source only, not used: " in str(report)
    assert torch.equal(model.state_dict()["blocks.1.attn.qkv.weight"], state["blocks.1.attn.qkv.weight"])


@pytest.mark.parametrize("reset_head", [False, True])
def test_maes_finetuned_weights_bring_their_classifier_unless_it_is_not_wanted(
    tmp_path: Path, reset_head: bool
) -> None:
    head = {
        "head.weight": (5, WIDTH),
        "head.bias": (5,),
        "fc_norm.weight": (WIDTH,),
        "fc_norm.bias": (WIDTH,),
    }
    state = tensors(mae_encoder() | head)
    torch.save({"model": state, "args": argparse.Namespace(nb_classes=5)}, tmp_path / "mae.pth")
    arguments: dict[str, Any] = {"options": {"global_pool": "avg"}, "head_init_std": 2e-5}
    fresh = build("vit_tiny_patch16_224", **arguments)
    model = build("vit_tiny_patch16_224", pretrained=str(tmp_path / "mae.pth"), reset_head=reset_head, **arguments)
    report = model.load_report
    assert report is not None
    assert report.missing == report.unexpected == report.shape_mismatched == ()
    assert report.reset == (("head.weight", "head.bias") if reset_head else ())
    assert ("left at their initialisation: head.weight, head.bias" in str(report)) is reset_head
    assert torch.equal(model.fc_norm.weight, state["fc_norm.weight"])
    assert torch.equal(model.head.weight, fresh.head.weight if reset_head else state["head.weight"])
    assert bool((model.head.bias == 0).all()) is reset_head


@pytest.fixture
def yacs(monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """The configuration class that SimMIM's checkpoints hold, there while they are written and gone when read."""
    module: Any = types.ModuleType("yacs.config")
    node = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    module.CfgNode = node
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", module)
        yield node


def save_simmim(path: Path, node: Any, *, finetuned: bool) -> dict[str, Tensor]:
    state = tensors(simmim(finetuned=finetuned))
    config = node({"MODEL": node({"TYPE": "vit"}), "TAG": "simmim", "BETAS": [0.9, 0.999]})
    config.__dict__["__immutable__"] = True
    content = {"model": state, "optimizer": {"state": {}}, "lr_scheduler": {}, "max_accuracy": 0.0, "epoch": 799}
    torch.save({**content, "config": config}, path)
    return state


def test_simmims_pretraining_fills_a_beit_with_its_shared_table_in_each_block(tmp_path: Path, yacs: type) -> None:
    state = save_simmim(tmp_path / "simmim.pth", yacs, finetuned=False)
    sys.modules.pop("yacs.config")
    model = build("beit_base_patch16_224")
    report = load_pretrained(model, str(tmp_path / "simmim.pth"))
    assert set(report.missing) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert set(report.unexpected) == {"mask_token", "decoder.0.weight", "decoder.0.bias", *NORM}
    assert report.resampled == report.shape_mismatched == ()
    for name in report.loaded:
        shared = re.sub(r"blocks\.\d+\.attn\.relative", "rel_pos_bias.relative", name)
        assert torch.equal(model.state_dict()[name], state[f"encoder.{shared}"]), name


def test_simmims_finetuned_weights_fill_the_whole_model(tmp_path: Path, yacs: type) -> None:
    state = save_simmim(tmp_path / "simmim.pth", yacs, finetuned=True)
    sys.modules.pop("yacs.config")
    model = build("beit_base_patch16_224")
    report = load_pretrained(model, str(tmp_path / "simmim.pth"))
    assert set(report.loaded) == set(model.state_dict())
    assert report.missing == report.unexpected == ()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_bias_tables_are_resampled_to_another_grid(tmp_path: Path, yacs: type) -> None:
    state = save_simmim(tmp_path / "simmim.pth", yacs, finetuned=False)
    model = build("beit_base_patch16_224", image_size=24)
    report = load_pretrained(model, str(tmp_path / "simmim.pth"))
    tables = [f"blocks.{i}.attn.relative_position_bias_table" for i in range(DEPTH)]
    assert report.resampled == tuple(tables)
    source = state["encoder.rel_pos_bias.relative_position_bias_table"]
    expected = resize_rel_pos_bias_table(source, (6, 6), (11**2 + 3, HEADS))
    for table in tables:
        torch.testing.assert_close(model.state_dict()[table], expected)
    assert torch.equal(expected[-3:], source[-3:])  # those of the class token have no distance


def test_a_shared_table_stays_shared_where_the_model_shares_one(tmp_path: Path, yacs: type) -> None:
    state = save_simmim(tmp_path / "simmim.pth", yacs, finetuned=False)
    model = build("beit_base_patch16_224", options={"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True})
    load_pretrained(model, str(tmp_path / "simmim.pth"))
    table = "rel_pos_bias.relative_position_bias_table"
    assert torch.equal(model.state_dict()[table], state[f"encoder.{table}"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("beit_base_patch16_224", {"use_rel_pos_bias": False}, "the model has none .option use_rel_pos_bias"),
        ("beit_base_patch16_224", {"num_heads": 3}, "relative_position_bias_table is|cannot be brought"),
        ("vit_tiny_patch16_224", {}, "pos_embed is not in the file"),
        ("eva02_tiny_patch14_224", {}, "another architecture"),
    ],
)
def test_simmims_weights_are_refused_by_another_architecture(
    tmp_path: Path, yacs: type, name: str, options: dict, message: str
) -> None:
    save_simmim(tmp_path / "simmim.pth", yacs, finetuned=False)
    with pytest.raises(ValueError, match=message):
        load_pretrained(build(name, options=options), str(tmp_path / "simmim.pth"))


class Runs:
    """Wants ``call(*arguments)`` when it is unpickled."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.what = (call, arguments)

    def __reduce__(self) -> tuple:
        return self.what


@pytest.mark.parametrize("call", [exec, eval, os.system, subprocess.getoutput])
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_refused_or_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any, legacy: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "open('code-was-run', 'w')" if call in (exec, eval) else "touch code-was-run"
    content = {"model": tensors(mae_encoder() | NORM), "args": Runs(call, code)}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    before = set(torch.serialization.get_safe_globals())  # torch keeps a set: the order of its list says nothing
    refused = pytest.raises(ValueError, match="files that need code to be run are refused")
    with refused if legacy or call is os.system else nullcontext():
        load_pretrained(build("vit_tiny_patch16_224"), str(tmp_path / "w.pth"))
    assert not (tmp_path / "code-was-run").exists()
    assert set(torch.serialization.get_safe_globals()) == before
    # The file would run it, if it were read without care.
    pickle.loads(pickle.dumps(Runs(call, code)))
    assert (tmp_path / "code-was-run").exists()


def test_old_files_with_a_namespace_are_read(tmp_path: Path) -> None:
    content = {"model": tensors(mae_encoder() | NORM), "args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    report = load_pretrained(build("vit_tiny_patch16_224"), str(tmp_path / "w.pth"))
    assert set(report.loaded) == set(content["model"])


def test_a_file_without_names_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "w.pth")
    with pytest.raises(ValueError, match="holds no weights by name, but a list"):
        load_pretrained(build("vit_tiny_patch16_224"), str(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"])
def test_a_fresh_classifier_can_be_drawn_small(name: str) -> None:
    model = build(name, num_classes=400, head_init_std=2e-5)
    found = model.get_classifier()
    for layer in found if isinstance(found, tuple) else (found,):
        assert layer.weight.std().item() == pytest.approx(2e-5, rel=0.05)
        assert not layer.bias.any()
