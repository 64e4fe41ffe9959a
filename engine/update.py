"""One update of the weights: forward and backward passes that add up gradients, then the optimizer's step.

The number of passes that make a step may change from step to step (see ``MicroBatches``). DeepSpeed's configuration
fixes it; so DeepSpeed is told where a step ends instead of counting.
"""

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from torch import Tensor

from engine.config import RunConfig
from engine.run_plan import clips_itself

_NO_ZERO = 1e-6  # as torch's clipping has it


def begin_pass(engine: DeepSpeedEngine, *, is_last: bool) -> None:
    """Before each forward pass: say whether it is the step's last, after which gradients are reduced over the ranks."""
    engine.set_gradient_accumulation_boundary(is_last)


def backward_pass(engine: DeepSpeedEngine, loss: Tensor, num_passes: int) -> None:
    """Add the gradients of a micro batch's mean loss, of which ``num_passes`` make a step."""
    engine.backward(loss / num_passes, scale_wrt_gas=False)


def update_weights(engine: DeepSpeedEngine, config: RunConfig, *, measure: bool) -> float | None:
    """Clip the gradients and step the optimizer, after a step's last pass.

    Nothing waits for the device unless ``measure`` is set or, under ZeRO-3, DeepSpeed's own optimizer does.

    Returns:
        The norm of the whole gradient before clipping, if ``measure``.
    """
    max_norm, norm = config.train.clip_grad_norm, None
    if clips_itself(config) and (measure or max_norm is not None):
        norm = (_clip if config.engine.zero_stage == 0 else _clip_divided)(engine, max_norm)
    engine.step()
    if measure and norm is None:
        norm = engine.get_global_grad_norm()
    return float(norm) if measure and norm is not None else None


def _clip(engine: DeepSpeedEngine, max_norm: float | None) -> Tensor:
    """Clip gradients that are whole on every rank; their norm before that, a float32 scalar on their device."""
    parameters = [p for p in engine.module.parameters() if p.grad is not None]
    if max_norm is not None:
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _clip_divided(engine: DeepSpeedEngine, max_norm: float | None) -> Tensor:
    """Have gradients clipped of which each rank has its part (ZeRO-1 and 2); returns as ``_clip``. Collective.

    The optimizer divides them itself as it reads them, in float32: torch's fused optimizers take a divisor, by which
    gradients of scaled losses are brought back.
    """
    parts = [part for group in engine.optimizer.averaged_gradients.values() for part in group]
    square = torch.stack(torch._foreach_norm(parts, 2, dtype=torch.float32)).square().sum()
    dist.all_reduce(square)
    norm = square.sqrt()
    if max_norm is not None:
        engine.basic_optimizer.grad_scale = ((norm + _NO_ZERO) / max_norm).clamp(min=1)
    return norm
