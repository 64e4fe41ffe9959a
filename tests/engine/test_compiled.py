"""Compiled blocks. The backend here only traces, which takes no compiler; what is made of the traces is torch's."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from patch_models import make_pair

from engine.compiled import compile_blocks, run_once, warm_up
from engine.config import PretrainConfig
from engine.models.masked_autoencoder import masked_autoencoder
from engine.models.patch_embed import PatchModel
from engine.models.patch_vit import PatchViT
from engine.run_plan import MicroBatches, RunPlan
from engine.task import Model, model_sizes
from pipeline.config import DataConfig
from pipeline.plan.schedule import PatchSchedule, ScheduleConfig

BATCH_SIZE = 2


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def patches_of(model: PatchModel) -> tuple[int, int]:
    """Patches of the full image, values of a patch."""
    height, width = model.patch_embed.patch_size
    return model.patch_embed.num_patches, height * width * 3


def logits_and_gradients(model: Model, num_kept: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(num_kept)
    num_patches, values = patches_of(model.encoder if not isinstance(model, PatchModel) else model)
    patches = torch.randint(0, 256, (BATCH_SIZE, num_kept, values), dtype=torch.uint8, generator=generator)
    ids = torch.stack([torch.randperm(num_patches, generator=generator) for _ in range(BATCH_SIZE)]).int()
    inputs = [patches, ids[:, :num_kept]] + ([] if isinstance(model, PatchModel) else [ids[:, num_kept:]])
    output = model(*inputs)
    output.square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return [output.detach(), *gradients]


@pytest.mark.parametrize("kind", ["custom grid", "BEiT, as SimMIM fine-tunes it", "autoencoder"])
def test_a_compiled_model_computes_the_same_and_compiles_nothing_after_its_warm_up(kind: str) -> None:
    vit, _ = make_pair("custom grid" if kind == "autoencoder" else kind)
    num_patches, values = patches_of(vit)
    model: Model = vit
    if kind == "autoencoder":
        assert isinstance(vit, PatchViT)
        model = masked_autoencoder(vit, PretrainConfig(decoder_dim=16, decoder_depth=1, decoder_heads=2))
    model.train()
    sizes = (num_patches // 4, num_patches // 2)
    plain = [logits_and_gradients(model, num_kept) for num_kept in sizes]
    names = list(model.state_dict())
    compile_blocks(model, backend="aot_eager")
    for num_kept in sizes:
        run_once(model, BATCH_SIZE, num_kept, num_patches, values, torch.device("cpu"))
    assert list(model.state_dict()) == names
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled = [logits_and_gradients(model, num_kept) for num_kept in sizes]
    for ours, reference in zip(compiled, plain, strict=True):
        for one, other in zip(ours, reference, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_every_stage_of_changing_sizes_is_compiled_before_the_run() -> None:
    model, _ = make_pair("custom grid")
    model.train()
    (own, _), size = model.patch_embed.patch_size, model.patch_embed.img_size[0]
    sizes = {"kind": "steps", "values": [[0, size], [0.5, 2 * size]]}
    config = ScheduleConfig.model_validate({"kind": "linear", "keep_rate": [0.6, 1.0], "image_size": sizes})
    data = DataConfig(train=Path(), val=Path(), num_classes=10, image_size=size, patch_size=own)
    schedule = PatchSchedule(config, data.num_patches, 12, 6, BATCH_SIZE, 0, size, own)
    plan = RunPlan(schedule, 12, 6, 0, MicroBatches(BATCH_SIZE, 1, BATCH_SIZE), None, None, None)
    compile_blocks(model, backend="aot_eager")
    warm_up(model, plan, data, torch.device("cpu"))
    assert len(schedule.stages()) > 3
    with torch.compiler.set_stance("fail_on_recompile"):
        for step in range(12):
            stage = schedule.stage(step)
            patches = torch.zeros(BATCH_SIZE, stage.num_kept, 3 * own**2, dtype=torch.uint8)
            ids = torch.arange(stage.num_kept, dtype=torch.int32).repeat(BATCH_SIZE, 1)
            model(patches, ids, **model_sizes(config, stage)).sum().backward()


def test_a_shape_that_was_not_warmed_up_is_noticed() -> None:
    model, _ = make_pair("custom grid")
    num_patches, values = patches_of(model)
    compile_blocks(model, backend="aot_eager")
    run_once(model, BATCH_SIZE, 3, num_patches, values, torch.device("cpu"))
    with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError, match="recompile"):
        run_once(model, BATCH_SIZE, 4, num_patches, values, torch.device("cpu"))


def test_a_warm_up_under_autocast_makes_the_graphs_that_training_under_autocast_takes() -> None:
    model, _ = make_pair("custom grid")
    model.train()
    num_patches, values = patches_of(model)
    compile_blocks(model, backend="aot_eager")
    run_once(model, BATCH_SIZE, 3, num_patches, values, torch.device("cpu"), autocast=True)
    patches = torch.zeros(BATCH_SIZE, 3, values, dtype=torch.uint8)
    with torch.compiler.set_stance("fail_on_recompile"):
        with torch.autocast(device_type="cpu", dtype=torch.bfloat16, enabled=True):  # as DeepSpeed enters it
            logits = model(patches, torch.arange(3).repeat(BATCH_SIZE, 1).int())
        logits.float().sum().backward()
    assert logits.dtype == torch.bfloat16
