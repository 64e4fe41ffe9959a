"""A moving average of the weights, kept beside training: what is evaluated and exported where it is on."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from deepspeed import DeepSpeedEngine
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
        """The averaged model for evaluation: itself under ``fp32``, under autocast to bfloat16 under ``bf16``."""
        return self.model if precision == "fp32" else UnderAutocast(self.model)

    def weights(self) -> dict[str, Tensor]:
        """The averages by parameter name, float32 on the CPU."""
        return {name: average.detach().cpu().clone() for name, average in self.model.named_parameters()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs; the tensors are the average's own."""
        return self.model.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        self.model.load_state_dict(state)


class UnderAutocast(nn.Module):
    """A float32 model whose forward passes compute in bfloat16, as DeepSpeed's do in training with autocast."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training

    def forward(self, *inputs: Tensor, **settings: Any) -> Tensor:
        """What ``module`` says to the same tensors, all on one device, under the same settings."""
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            return self.module(*inputs, **settings)


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

    Under bf16 at ZeRO 1 and 2 the ranks divide the float32 weights, so there these are the model's, rounded to bf16.
    """
    return list(engine.module.parameters())
