"""DeepSpeed around a model."""

import logging
import warnings

import deepspeed
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
    if config.engine.compile:
        compile_blocks(model)
    return engine
