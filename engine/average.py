"""A moving average of the weights, kept beside training: what is evaluated and exported where it is on."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from torch import Tensor, nn

from engine.checkpoints.state_files import read_state

AVERAGE_FILE = "average.pt"  # in a checkpoint


class WeightAverage:
    """The exponential moving average of a model's weights (Polyak averaging; timm and MAE call it EMA).

    After each step every parameter of ``model`` becomes ``decay * itself + (1 - decay) * the trained weight``, in
    float32 on the trained model's device. It starts from the weights that training starts from.

    Args:
        trained: on the training device, before DeepSpeed changes its precision.
        decay: the share that stays, such as 0.9999.
    """

    def __init__(self, trained: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(trained).float().requires_grad_(False).eval()
        self._averages: list[Tensor] = list(self.model.parameters())

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor]) -> None:
        """Take in the weights after a step, in the order of ``parameters()``. The host does not wait for the device."""
        torch._foreach_lerp_(self._averages, [weight.float() for weight in weights], 1 - self.decay)

    @torch.no_grad()
    def restart(self, weights: Sequence[Tensor]) -> None:
        """Begin anew from these weights."""
        torch._foreach_copy_(self._averages, list(weights))

    def in_precision(self, precision: str) -> nn.Module:
        """The averaged model for evaluation: itself under ``fp32``, a copy under ``bf16``."""
        return self.model if precision == "fp32" else copy.deepcopy(self.model).bfloat16()

    def weights(self) -> dict[str, Tensor]:
        """The averages by parameter name, float32 on the CPU."""
        return {name: average.detach().cpu().clone() for name, average in self.model.named_parameters()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs; the tensors are the average's own."""
        return self.model.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        self.model.load_state_dict(state)


def resume_average(average: WeightAverage, engine: DeepSpeedEngine, checkpoint: Path) -> list[str]:
    """Go on from the average in ``checkpoint``, or from the weights just loaded if that run kept none.

    Returns:
        Lines for the person who started the run.

    Raises:
        OSError: it cannot be read.
    """
    path = checkpoint / AVERAGE_FILE
    if path.exists():
        average.load_state(read_state(path))
        return []
    average.restart(trained_weights(engine))
    return [f"{checkpoint} holds no average of the weights: it starts from the weights there"]


def trained_weights(engine: DeepSpeedEngine) -> list[Tensor]:
    """The weights as they are trained, in the order of ``parameters()``, on the training device. ZeRO 0 to 2.

    In fp32 they are the model's own. In bf16 the float32 weights are whole on each rank under ZeRO 0 only; ZeRO 1 and 2
    divide them over the ranks, so there these are the model's, rounded to bf16.
    """
    parameters = list(engine.module.parameters())
    if not isinstance(engine.optimizer, FP16_UnfusedOptimizer):  # DeepSpeed's for bf16 too
        return parameters
    low = [parameter for group in engine.optimizer.fp16_groups for parameter in group]
    full = [weight for group in engine.optimizer.fp32_groups for weight in group]
    whole = {id(parameter): weight for parameter, weight in zip(low, full, strict=True)}
    return [whole.get(id(parameter), parameter) for parameter in parameters]
