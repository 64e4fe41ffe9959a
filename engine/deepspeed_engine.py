"""DeepSpeed around a model."""

import logging
import warnings
from typing import Any

import deepspeed
import torch.distributed as dist
from deepspeed import DeepSpeedEngine

from engine.compiled import compile_blocks
from engine.config import RunConfig
from engine.optim import build_optimizer, param_groups
from engine.run_plan import RunPlan, deepspeed_config
from engine.task import Model


def quiet() -> None:
    """A program's own output is enough; DeepSpeed's remarks matter only when something is wrong."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="deepspeed")


def build_engine(config: RunConfig, plan: RunPlan, model: Model, *, load_universal: bool = False) -> DeepSpeedEngine:
    """DeepSpeed around a model on its device, with the run's optimizer. Collective.

    Args:
        load_universal: the checkpoint to be loaded is a conversion from another number of ranks.
    """
    optim = config.optim
    groups = param_groups(model, weight_decay=optim.weight_decay, layer_decay=optim.layer_decay)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=build_optimizer(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps),
        config=deepspeed_config(config, plan, load_universal=load_universal),
        dist_init_required=False,
    )
    if config.engine.zero_stage == 0 and dist.get_world_size() == 1:
        engine.enable_backward_allreduce = False  # it copies every gradient twice, and there is nobody to exchange with
    if config.engine.zero_stage in (1, 2):
        spare_the_host(engine.optimizer)
    if config.engine.compile:
        compile_blocks(model)
    return engine


def spare_the_host(optimizer: Any) -> None:
    """Take work out of the steps of DeepSpeed's optimizer for ZeRO-1 and 2 that changes nothing. In place.

    It takes the norm of every gradient, though the trainer has clipped by the whole norm already; and after the update
    it points every parameter anew to its place in the flat weights, where it points already. Together that is ten
    operations for each parameter, which the device waits for.
    """
    step = optimizer.step

    def step_without_pointing() -> None:
        optimizer._update_model_bit16_weights = lambda group: None
        try:
            step()
        finally:
            del optimizer._update_model_bit16_weights

    optimizer.compute_grad_norm = False
    optimizer.step = step_without_pointing
