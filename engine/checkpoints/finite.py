"""Weights that are no numbers any more: found before a checkpoint, an evaluation or an export is made of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state
from torch import Tensor, nn

from engine.checkpoints.manifest import has_manifest, step_folder, steps_in
from engine.ranks.world import World, agree, end_together

DIVERGED_EXIT_CODE = 4
_MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's, as DeepSpeed hands them out under ZeRO-3


class DivergedError(FloatingPointError):
    """Training has left the numbers; raised on every rank at the same step.

    Args:
        what: what is not finite, and where, for people.
        steps: the number of steps after which the weights are those that lead to it.
    """

    agreed = True

    def __init__(self, what: str, steps: int) -> None:
        super().__init__(what)
        self.steps = steps


def check_finite(
    engine: DeepSpeedEngine, average: nn.Module | None, loss: Callable[[], Tensor], steps: int, world: World
) -> None:
    """Look at all that a checkpoint of ``steps`` steps would hold, and at what its weights compute. Collective.

    Args:
        average: the averaged model, if there is one.
        loss: computes the loss of a batch with the weights as they are: numbers may be finite and too large to work
            with.

    Raises:
        DivergedError: on every rank, if anything is not finite on any.
    """
    broken = what_is_broken(engine, average, world)
    if broken is not None:
        raise DivergedError(f"{broken} not finite after step {steps}", steps)
    if agree(world, not bool(loss().isfinite())):
        raise DivergedError(f"the weights after step {steps} are so large that their loss is not finite", steps)


def what_is_broken(engine: DeepSpeedEngine, average: nn.Module | None, world: World) -> str | None:
    """The first kind of state, with its verb, that is not finite on some rank; None if all is well. Collective."""
    kinds = {
        "the weights are": _weights(engine),
        "the optimizer's moments are": _moments(engine),
        "the averaged weights are": [] if average is None else [*average.parameters(), *average.buffers()],
    }
    return next((kind for kind, tensors in kinds.items() if agree(world, not are_finite(tensors))), None)


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every number of floating point tensors is finite: one pass over them, one wait for their device."""
    floats = [tensor.detach() for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    return bool(nn.utils.get_total_norm(floats, norm_type=torch.inf).isfinite())


def own_part(part: Tensor, numel: int, rank: int) -> Tensor:
    """Of a rank's part of a flat parameter, what is the parameter's: the last parts end in memory that nobody has set.

    Args:
        part: [P], of a parameter that is divided over ranks in parts of P numbers.
        numel: the parameter's own size.
    """
    return part[: max(0, min(part.numel(), numel - rank * part.numel()))]


def _weights(engine: DeepSpeedEngine) -> list[Tensor]:
    """On this rank: the model's, and where the optimizer keeps its own in float32, those."""
    found = list(engine.module.buffers())
    for parameter in engine.module.parameters():
        if not _is_divided(parameter):
            found.append(parameter)
            continue
        found.append(_own_part_of(parameter, parameter.ds_tensor))
        if parameter.requires_grad:
            found.append(_own_part_of(parameter, safe_get_local_fp32_param(parameter)))
    if not any(map(_is_divided, engine.module.parameters())):
        found += engine.basic_optimizer.state.keys()
    return found


def _moments(engine: DeepSpeedEngine) -> list[Tensor]:
    divided = [p for p in engine.module.parameters() if _is_divided(p) and p.requires_grad]
    if divided:
        return [_own_part_of(p, safe_get_local_optimizer_state(p, name)) for p in divided for name in _MOMENTS]
    return [
        value for state in engine.basic_optimizer.state.values() for value in state.values() if torch.is_tensor(value)
    ]


def _is_divided(parameter: Tensor) -> bool:
    """Whether each rank has a part of it only: ZeRO-3."""
    return hasattr(parameter, "ds_tensor")


def _own_part_of(parameter: Any, part: Tensor) -> Tensor:
    return own_part(part.flatten(), parameter.ds_numel, dist.get_rank())


@contextmanager
def clear_divergence(world: World, checkpoints: Path) -> Iterator[None]:
    """End a run that has diverged with one line and ``DIVERGED_EXIT_CODE`` on every rank."""
    try:
        yield
    except DivergedError as error:
        way_on = how_to_go_on(checkpoints, error.steps) if world.is_first else ""
        end_together(world, f"{error}. {way_on}", DIVERGED_EXIT_CODE)


def how_to_go_on(checkpoints: Path, steps: int) -> str:
    """What to do about weights that are broken after ``steps`` steps."""
    complete = [step for step in steps_in(checkpoints) if has_manifest(step_folder(checkpoints, step))]
    good = [step_folder(checkpoints, step) for step in complete if step < steps]
    keys = "Usually a lower optim.lr, a longer optim.warmup or a smaller train.clip_grad_norm helps"
    if not good:
        start = "give --resume never to start anew" if steps in complete else "the same command starts anew"
        return f"There is no good checkpoint; {start}. {keys}"
    if steps in complete:
        start = f"The checkpoint {step_folder(checkpoints, steps)} leads to this; give --resume {good[-1]} to go on"
        start += " from the last one before it"
    else:
        start = f"No checkpoint was made of that and nothing exported; the last good checkpoint is {good[-1]}, and the"
        start += " same command goes on from there"
    return f"{start}. {keys}, with --allow-change for each key that changes"
