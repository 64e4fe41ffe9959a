"""Weights that are held near those that training starts from: ``train.anchor``.

Beside the loss stands the penalty ``strength / 2 * sum(F * (w - start)^2)``, with F = 1 (L2-SP, arXiv 1802.01483) or a
weight's Fisher information (EWC, arXiv 1612.00796). Its gradient, ``strength * F * (w - start)``, is written down and
added to the loss's once a step: when the micro batches of all ranks are added up, and before the norm is taken. Under
bf16 it is that of the float32 weights. So nothing of it depends on how a step is divided.

Nothing of it is saved either: the starting weights are read anew at every start, and known by their fingerprint.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from torch import Tensor

from engine.checkpoints.checkpoint import weights_digest
from engine.config import RunConfig
from engine.models.weights import LoadReport
from engine.run.fisher import Fisher, read_fisher
from engine.task import Model
from engine.values.anchor import AnchorConfig


@dataclass(frozen=True)
class Held:
    """What a run's weights are held to.

    Attributes:
        starts: the starting weights, float32 on the CPU, by parameter name.
        factors: what multiplies the distance in the gradient, of the same shapes: the strength times F.
        free: parameters that have no anchor, as they do not come from the starting weights.
        fingerprint: of the starting weights and F, SHA-256.
    """

    starts: Mapping[str, Tensor]
    factors: Mapping[str, Tensor]
    free: tuple[str, ...]
    fingerprint: str


def read_held(config: RunConfig, model: Model) -> Held | None:
    """What ``model``, fresh with the weights that it starts from, will be held to; None without ``train.anchor``.

    Raises:
        ValueError, OSError: Fisher information that cannot be read, or is not of these weights.
    """
    anchor, report = config.train.anchor, model.load_report
    if anchor is None or report is None:
        return None
    loaded = set(report.loaded)
    starts = {name: p.detach().float().cpu().clone() for name, p in model.named_parameters() if name in loaded}
    free = tuple(name for name, _ in model.named_parameters() if name not in loaded)
    digest = weights_digest(starts)
    if anchor.fisher is None:
        ones = torch.tensor(anchor.strength)
        return Held(starts, {name: ones.expand(start.shape) for name, start in starts.items()}, free, digest)
    fisher = read_fisher(anchor.fisher)
    _check_fits(anchor, fisher, starts, digest, report)
    diagonal = {name: fisher.diagonal[name] for name in starts}
    fingerprint = hashlib.sha256(f"{digest} {weights_digest(diagonal)}".encode()).hexdigest()
    return Held(starts, {name: anchor.strength * value for name, value in diagonal.items()}, free, fingerprint)


def _check_fits(
    anchor: AnchorConfig, fisher: Fisher, starts: Mapping[str, Tensor], digest: str, report: LoadReport
) -> None:
    for name, start in starts.items():
        found = list(fisher.diagonal[name].shape) if name in fisher.diagonal else None
        if found != list(start.shape):
            what = "does not hold it" if found is None else f"has {found} for it"
            raise ValueError(
                f"train.anchor.fisher: {name} is {list(start.shape)} in the model, and {anchor.fisher} {what}; give a "
                "file of the run that model.pretrained is of, at its sizes, or leave fisher out"
            )
    # Where a classifier stays fresh or positions are resampled, the weights are not all of those of the file.
    if starts.keys() == fisher.diagonal.keys() and not report.resampled and digest != fisher.weights_digest:
        raise ValueError(
            f"train.anchor.fisher: {anchor.fisher} is of other weights than {report.source}; make it of the run that "
            "these are of: python -m tools.fisher RUN --out FILE"
        )


def describe_held(config: RunConfig, held: Held | None) -> list[str]:
    """A line for the person who starts the run; none without ``train.anchor``."""
    anchor = config.train.anchor
    if anchor is None or held is None:
        return []
    weighted = "all alike" if anchor.fisher is None else f"each by its Fisher information in {anchor.fisher}"
    fresh = f"; no anchor, as they start anew: {', '.join(held.free)}" if held.free else ""
    return [
        f"train.anchor: {len(held.starts)} parameters are held near the starting weights, strength "
        f"{anchor.strength:g}, {weighted}{fresh}"
    ]


@dataclass(frozen=True)
class _Piece:
    """Weights that are pulled together, all float32 of one shape on the training device.

    Attributes:
        weights: as the optimizer updates them.
        group: the number of the optimizer's group, where ranks divide it.
    """

    weights: Tensor
    start: Tensor
    factor: Tensor
    group: int = 0


class Anchor:
    """Pulls the weights of an engine towards what they are held to.

    Args:
        engine: at ZeRO 0 to 2, with the weights that it goes on with.
    """

    def __init__(self, engine: DeepSpeedEngine, held: Held, zero_stage: int) -> None:
        self._engine = engine
        find, self._add, self._is_divided = _BY_STAGE[zero_stage]
        self._pieces = find(engine, held)

    @torch.no_grad()
    def pull(self, *, measure: bool) -> Tensor | None:
        """Add the penalty's gradient, after a step's last pass and before its update. Collective if ``measure``.

        Returns:
            The penalty, a float32 scalar on the training device, if ``measure``.
        """
        away = torch._foreach_sub([piece.weights for piece in self._pieces], [piece.start for piece in self._pieces])
        pulls = torch._foreach_mul(away, [piece.factor for piece in self._pieces])
        penalty = None
        if measure:
            parts = [(pull * distance).sum() for pull, distance in zip(pulls, away, strict=True)]
            penalty = torch.stack(parts).sum() / 2
            if self._is_divided:
                dist.all_reduce(penalty)
        self._add(self._engine, self._pieces, pulls)
        return penalty


def _whole_pieces(engine: DeepSpeedEngine, held: Held) -> list[_Piece]:
    """A piece for each parameter: every rank has all of them."""
    parameters = dict(engine.module.named_parameters())
    return [
        _Piece(parameters[name], start.to(parameters[name].device), held.factors[name].to(parameters[name].device))
        for name, start in held.starts.items()
    ]


def _add_to_whole(_: DeepSpeedEngine, pieces: Sequence[_Piece], pulls: Sequence[Tensor]) -> None:
    both = [(piece.weights.grad, pull) for piece, pull in zip(pieces, pulls, strict=True)]
    # What no pass has a gradient of is not updated either, so it stays where it is.
    found = [(gradient, pull) for gradient, pull in both if gradient is not None]
    torch._foreach_add_([gradient for gradient, _ in found], [pull for _, pull in found])


def _divided_pieces(engine: DeepSpeedEngine, held: Held) -> list[_Piece]:
    """A piece for each group of the optimizer: this rank's part of its flat float32 weights."""
    optimizer = engine.optimizer
    pieces = [
        _Piece(flat.detach(), torch.zeros_like(flat), torch.zeros_like(flat), group)
        for group, flat in enumerate(optimizer.single_partition_of_fp32_groups)
    ]
    for name, parameter in engine.module.named_parameters():
        place = parameter._hp_mapping  # None where no part of it is this rank's
        if name not in held.starts or place is None:
            continue
        there, here = place.lp_fragment_address, place.hp_fragment_address
        piece = pieces[place.param_group_index]
        for flat, values in ((piece.start, held.starts[name]), (piece.factor, held.factors[name])):
            flat[here.start : here.start + here.numel] = values.flatten()[there.start : there.start + there.numel]
    return pieces


def _add_to_divided(engine: DeepSpeedEngine, pieces: Sequence[_Piece], pulls: Sequence[Tensor]) -> None:
    """The sums stay float32, in which the optimizer takes gradients: bfloat16 ones would swallow a small pull."""
    gradients = engine.optimizer.averaged_gradients
    for piece, pull in zip(pieces, pulls, strict=True):
        flat = torch.cat([part.flatten() for part in gradients[piece.group]]).float()
        gradients[piece.group] = [flat.add_(pull)]


_Find = Callable[[DeepSpeedEngine, Held], list[_Piece]]
_Add = Callable[[DeepSpeedEngine, Sequence[_Piece], Sequence[Tensor]], None]
_WHOLE: tuple[_Find, _Add, bool] = (_whole_pieces, _add_to_whole, False)
_DIVIDED: tuple[_Find, _Add, bool] = (_divided_pieces, _add_to_divided, True)
_BY_STAGE: dict[Any, tuple[_Find, _Add, bool]] = {0: _WHOLE, 1: _DIVIDED, 2: _DIVIDED}  # 3 is refused
