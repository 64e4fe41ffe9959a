"""What a schedule's training steps will take, from a profile of the same model on the machine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from engine.config import RunConfig
from engine.run_plan import plan_micro_batches
from pipeline.plan.schedule import PatchSchedule, StageSummary
from tools.profile.saved import SavedProfile, SavedStage
from tools.profile.verdict import Ratio
from tools.schedule.exchange import Network, exposed_s
from tools.schedule.pace import Measured, Shape, Sides, between, left_out_error
from tools.schedule.preview import flops_counter

Limit = Literal["loader", "step", "exchange"]


@dataclass(frozen=True)
class StepCost:
    """What a step costs in each of some stages. Arrays are float64 [stages].

    Attributes:
        sides: of a host.
        exchange_s: what hosts exchange and nothing hides, besides what the profile's ranks exchanged themselves.
    """

    sides: Sides
    exchange_s: np.ndarray

    @property
    def step_s(self) -> np.ndarray:
        """Seconds of a training step."""
        # A loader that is behind works on while ranks exchange.
        return np.maximum(self.sides.loader, self.sides.step + self.exchange_s)

    def limit(self, place: int) -> Limit:
        """What the step of a stage waits for; exchange where it takes more of the step than computing does."""
        loader_s, step_s, exchange_s = self.sides.loader[place], self.sides.step[place], self.exchange_s[place]
        if loader_s > step_s + exchange_s:
            return "loader"
        return "exchange" if exchange_s > step_s else "step"


@dataclass(frozen=True)
class Cost:
    """What a step of a run costs in any stage.

    Attributes:
        where: hosts, machine and network, for people.
        full: the stage of full patches of data's sizes.
        medians: of the profile's repeats.
        repeats: each of them.
        error: see ``pace.left_out_error``.
        flops_of: operations of a training step for an image, from the number of patches and their size.
        exchange_at: seconds, float64 [stages], from the patches that each keeps and its operations: what hosts exchange
            and nothing hides, besides what the profile's ranks exchanged themselves.
    """

    where: str
    full: Shape
    medians: Measured
    repeats: list[Measured]
    error: float | None
    flops_of: Callable[[int, int], int]
    exchange_at: Callable[[Sequence[int], np.ndarray], np.ndarray]

    def flops(self, shapes: Sequence[Shape]) -> np.ndarray:
        """Operations of a training step for an image: float64 [shapes]."""
        return np.array([self.flops_of(shape.num_kept, shape.patch_size) for shape in shapes], dtype=float)

    def at(self, shapes: Sequence[Shape], of: Measured | None = None) -> StepCost:
        """A step's cost in each of some stages. of: one of the repeats; None: the medians."""
        flops = self.flops(shapes)
        exchange_s = self.exchange_at([shape.num_kept for shape in shapes], flops)
        return StepCost((of or self.medians).sides_at(shapes, flops), exchange_s)

    @property
    def full_step_s(self) -> float:
        """Seconds of a training step at full patches."""
        return float(self.at([self.full]).step_s[0])

    @property
    def falling(self) -> list[int]:
        """Measured numbers of patches whose step took longer than one of more patches of its sizes, on a host alone."""
        steps = list(zip(self.medians.shapes, self.medians.sides.together, strict=True))
        return sorted(
            {
                one.num_kept
                for one, own_s in steps
                if any(one.sizes == more.sizes and one.num_kept < more.num_kept and own_s > s for more, s in steps)
            }
        )

    def is_beyond(self, shapes: Sequence[Shape]) -> list[bool]:
        """Whether each costs more or fewer operations than any measured stage, or has a larger image than any.

        Or a smaller one, where several sizes were measured; what one alone says of smaller ones is for ``doubts``.
        """
        flops, known, sizes = self.flops(shapes), self.medians.flops, self.medians.image_sizes
        least = sizes[0] if len(sizes) > 1 else 0
        outside = (flops < known.min()) | (flops > known.max())
        is_known = [least <= shape.image_size <= sizes[-1] for shape in shapes]
        return [bool(one) or not known for one, known in zip(outside, is_known, strict=True)]


@dataclass(frozen=True)
class Prediction:
    """The time of a run's training steps. Evaluation, checkpoints and the start are not in it.

    Attributes:
        shapes: of the schedule's stages, in their order.
        steps: what each of them costs.
        predicted_s: from the medians.
        low_s, high_s: the 95 % interval of the profile's repeats (of fewer than three: their extremes), made wider by
            the error between measured stages, for the share of the time that lies between them.
        full_s: of as many steps at full patches; None where these cannot be trained.
        beyond: stages outside of what was measured.
    """

    schedule: PatchSchedule
    cost: Cost
    shapes: list[Shape]
    steps: StepCost
    predicted_s: float
    low_s: float
    high_s: float
    full_s: float | None
    beyond: list[Shape]

    @property
    def share_of_full(self) -> float | None:
        return None if self.full_s is None else self.predicted_s / self.full_s

    def as_json(self) -> dict[str, Any]:
        cost, step_s = self.cost, self.steps.step_s
        return {
            "predicted_s": self.predicted_s,
            "predicted_s_range": [self.low_s, self.high_s],
            "share_of_full": self.share_of_full,
            "interpolation_error": cost.error,
            "predicted_stages": [
                {
                    **shape._asdict(),
                    "step_s": float(step_s[place]),
                    "exchange_s": float(self.steps.exchange_s[place]),
                    "limited_by": self.steps.limit(place),
                    "measured": shape in cost.medians.shapes,
                }
                for place, shape in enumerate(self.shapes)
            ],
        }


def cost_of(config: RunConfig, profile: SavedProfile, hosts: int = 1, link_gbit_per_s: float | None = None) -> Cost:
    """What a step of a run costs in any stage.

    Args:
        profile: of this run, whatever its schedule; with several hosts of one of them, with its share of the batch.
        link_gbit_per_s: of each host, each way; None with one host.

    Raises:
        ValueError: the profile is of another model, batch or data.
    """
    profile.check_is_of(config, hosts)
    stages = profile.stages
    repeats = [_measured(stages, repeat) for repeat in range(len(stages[0].both_s))]
    medians = _medians(stages, repeats)
    exchange_at, where = _none_exchanged, profile.machine
    if link_gbit_per_s is not None:
        network = Network(hosts, link_gbit_per_s, hosts * profile.world_size)
        exchange_at = partial(_exchange, config, profile, network, num_parameters(config), medians)
        where = f"{hosts} hosts, each {profile.machine}, {link_gbit_per_s:g} Gbit/s between them"
    return Cost(
        where,
        Shape(config.data.num_patches, config.data.image_size, config.data.patch_size),
        medians,
        repeats,
        left_out_error(medians),
        flops_counter(config),
        exchange_at,
    )


def predict(config: RunConfig, schedule: PatchSchedule, cost: Cost) -> Prediction:
    """The time of a schedule's steps.

    Args:
        cost: as ``cost_of`` finds it for the same configuration, whatever its schedule.

    Raises:
        ValueError: all that was measured is one stage, and the schedule has others.
    """
    stages = schedule.stages()
    shapes, steps = [_shape(stage) for stage in stages], np.array([stage.num_steps for stage in stages])
    known = cost.medians.shapes
    others = [shape for shape in shapes if shape not in known]
    if len(known) == 1 and others:
        raise ValueError(
            f"the profile measured {told_shapes(known, others)[0]} patches alone, which says nothing of "
            f"{told_shapes(others, known)[0]}; profile a schedule of several stages"
        )
    found = cost.at(shapes)
    taken_s = steps * found.step_s
    predicted_s = float(taken_s.sum())
    low, high = _spread([float((steps * cost.at(shapes, of=one).step_s).sum()) / predicted_s for one in cost.repeats])
    unmeasured_s = float(taken_s[[shape not in known for shape in shapes]].sum())
    wider = 1 + unmeasured_s / predicted_s * (cost.error or 0.0)
    return Prediction(
        schedule,
        cost,
        shapes,
        found,
        predicted_s,
        low_s=predicted_s * low / wider,
        high_s=predicted_s * high * wider,
        full_s=None if config.task == "pretrain" else schedule.total_steps * cost.full_step_s,
        beyond=[shape for shape, is_beyond in zip(shapes, cost.is_beyond(shapes), strict=True) if is_beyond],
    )


def told_shapes(shapes: Sequence[Shape], others: Sequence[Shape] = ()) -> list[str]:
    """Stages in words: their numbers of patches, and where sizes differ among these or the others, these too."""
    if len({shape.sizes for shape in (*shapes, *others)}) <= 1:
        return [str(shape.num_kept) for shape in shapes]
    return [f"{kept} of {patch_size} px in {image_size} px" for kept, image_size, patch_size in shapes]


def _shape(stage: StageSummary) -> Shape:
    assert stage.image_size is not None
    assert stage.patch_size is not None
    return Shape(stage.num_kept, stage.image_size, stage.patch_size)


def _spread(ratios: list[float]) -> tuple[float, float]:
    """How far the repeats lie below and above the medians' time. ratios: of each one's to that."""
    found = Ratio.of(ratios)
    if found is None or found.low is None or found.high is None:
        return min(ratios), max(ratios)
    return min(found.low, 1.0), max(found.high, 1.0)


def _measured(stages: list[SavedStage], repeat: int) -> Measured:
    sides = ([getattr(stage, side)[repeat] for stage in stages] for side in ("loader_s", "step_s", "both_s"))
    columns = ([stage.flops_per_image for stage in stages], *sides)
    shapes = tuple(Shape(stage.num_kept, stage.image_size, stage.patch_size) for stage in stages)
    return Measured(shapes, *(np.array(column, dtype=float) for column in columns))


def _medians(stages: list[SavedStage], repeats: list[Measured]) -> Measured:
    middle = {
        side: np.median([getattr(one, side) for one in repeats], axis=0) for side in ("loader_s", "step_s", "both_s")
    }
    return replace(_measured(stages, 0), **middle)


def _none_exchanged(nums_kept: Sequence[int], flops: np.ndarray) -> np.ndarray:
    return np.zeros(len(nums_kept))


def _exchange(
    config: RunConfig,
    profile: SavedProfile,
    network: Network,
    num_exchanged: int,
    medians: Measured,
    nums_kept: Sequence[int],
    flops: np.ndarray,
) -> np.ndarray:
    parts: Mapping[str, np.ndarray] = {
        part: between(flops, medians.flops, np.array([getattr(stage, part) for stage in profile.stages]))
        for part in ("forward_s", "backward_s", "exchange_s")
    }
    micro_batches = plan_micro_batches(config, network.ranks)
    exposed = exposed_s(
        config,
        network,
        num_exchanged,
        passes=np.array([micro_batches.steps(one) for one in nums_kept]),
        forward_s=parts["forward_s"],
        backward_s=parts["backward_s"],
        overlaps=profile.has_gpu,
    )
    return exposed - parts["exchange_s"]  # what ranks of one host exchanged is in the profile's step


def num_parameters(config: RunConfig) -> int:
    """Numbers that ranks exchange the gradients of."""
    import torch

    from engine.evaluation.trained import build_run_model
    from engine.models.masked_autoencoder import masked_autoencoder

    with torch.device("meta"):
        model = build_run_model(config)
        whole = masked_autoencoder(model, config.pretrain) if config.task == "pretrain" else model
    return sum(parameter.numel() for parameter in whole.parameters() if parameter.requires_grad)


def check_is_here(profile: SavedProfile) -> None:
    """Whether a profile was measured on a machine like this one. Raises ValueError."""
    from engine.ranks.hardware import describe_hardware  # here, as it brings torch with it

    profile.check_machine(describe_hardware())
