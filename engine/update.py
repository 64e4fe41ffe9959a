"""One update of the weights: forward and backward passes that add up gradients, then the optimizer's step.

The number of passes that make a step may change from step to step (see ``MicroBatches``). DeepSpeed's configuration
fixes it; so DeepSpeed is told where a step ends instead of counting.
"""

import torch
from deepspeed import DeepSpeedEngine
from torch import Tensor

from engine.config import RunConfig
from engine.run_plan import clips_itself


def begin_pass(engine: DeepSpeedEngine, *, is_last: bool) -> None:
    """Before each forward pass: say whether it is the step's last, after which gradients are reduced over the ranks."""
    engine.set_gradient_accumulation_boundary(is_last)


def backward_pass(engine: DeepSpeedEngine, loss: Tensor, num_passes: int) -> None:
    """Add the gradients of a micro batch's mean loss, of which ``num_passes`` make a step."""
    engine.backward(loss / num_passes, scale_wrt_gas=False)


def update_weights(engine: DeepSpeedEngine, config: RunConfig, *, measure: bool) -> float | None:
    """Clip the gradients and step the optimizer, after a step's last pass.

    Nothing waits for the device unless ``measure`` is set or DeepSpeed's own optimizers do.

    Returns:
        The norm of the whole gradient before clipping, if ``measure``.
    """
    norm = None
    if clips_itself(config):
        max_norm = config.train.clip_grad_norm
        parameters = [p for p in engine.module.parameters() if p.grad is not None]
        if max_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        elif measure:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    engine.step()
    if measure and norm is None:
        norm = engine.get_global_grad_norm()
    return float(norm) if measure and norm is not None else None
