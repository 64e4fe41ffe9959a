"""Transformer blocks through ``torch.compile``, one graph per shape, all of them made before the first step.

Only the blocks are compiled: the time goes there, all blocks of a model share their graphs, and the names of
the weights stay what they are. Blocks that differ in a number, as under drop path, each get graphs of their own.
"""

import time
from contextlib import nullcontext

import torch
import torch._dynamo.config
from torch import Tensor

from engine.models.patch_embed import PatchModel
from engine.run_plan import RunPlan
from engine.task import Model, model_sizes
from pipeline.config import DataConfig


def compile_blocks(model: Model, *, backend: str = "inductor") -> None:
    """Compile each block of the model (of encoder and decoder) for every shape that it is going to see. In place."""
    blocks = [block for name, block in model.named_modules() if _is_block(name)]
    # A schedule has as many shapes as stages, which is more than the few after which torch gives up.
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, 64 * len(blocks))
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, 64 * len(blocks))
    for block in blocks:
        block.compile(dynamic=False, backend=backend)


def _is_block(name: str) -> bool:
    *_, stack, place = ["", "", *name.split(".")]
    return stack in ("blocks", "decoder_blocks") and place.isdigit()


def warm_up(model: Model, plan: RunPlan, data: DataConfig, device: torch.device, *, autocast: bool = False) -> float:
    """Compile for all shapes of the run; the weights and their gradients stay as they are.

    Args:
        data: with the sizes of full images and patches.
        autocast: whether the run trains under autocast to bfloat16, which has graphs of its own.

    Returns:
        The seconds it took.
    """
    start = time.perf_counter()
    for stage in plan.schedule.stages():
        size, of_stage = plan.micro_batches.size(stage.num_kept), data.at(stage.image_size, stage.patch_size)
        num_patches, patch_values = of_stage.num_patches, 3 * of_stage.patch_size**2
        sizes = model_sizes(plan.schedule.config, stage.stage)
        run_once(model, size, stage.num_kept, num_patches, patch_values, device, autocast=autocast, **sizes)
    return time.perf_counter() - start


def run_once(
    model: Model,
    batch_size: int,
    num_kept: int,
    num_patches: int,
    patch_values: int,
    device: torch.device,
    *,
    autocast: bool = False,
    image_size: int | None = None,
    patch_size: int | None = None,
) -> None:
    """One forward and backward pass on black patches, which leaves no gradient behind.

    Args:
        num_patches, patch_values: of whole images at these sizes, P*P*3.
        image_size, patch_size: as for ``PatchModel.forward``; an autoencoder has no other sizes than its own.
    """
    patches = torch.zeros(batch_size, num_kept, patch_values, dtype=torch.uint8, device=device)
    ids = torch.arange(num_patches, dtype=torch.int32, device=device).expand(batch_size, -1)
    inputs: list[Tensor] = [patches, ids[:, :num_kept].contiguous()]
    if hasattr(model, "decoder_blocks"):
        inputs.append(ids[:, num_kept:].contiguous())
    sizes = {"image_size": image_size, "patch_size": patch_size} if isinstance(model, PatchModel) else {}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Nothing around it without autocast: one that is switched off has another data type, so its graphs are others too.
    with torch.autocast(device.type, torch.bfloat16) if autocast else nullcontext():
        output = model(*inputs, **sizes)
    # Not backward(): that would leave gradients, and start DeepSpeed's own work on them.
    torch.autograd.grad(output.float().sum(), parameters, allow_unused=True)
