"""What a schedule's training steps will take, from a profile of the same model on the machine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from engine.config import RunConfig
from engine.run_plan import plan_micro_batches
from pipeline.plan.schedule import PatchSchedule
from tools.profile.saved import SavedProfile, SavedStage
from tools.profile.verdict import Ratio
from tools.schedule.exchange import Network, exposed_s
from tools.schedule.pace import Measured, Sides, left_out_error
from tools.schedule.preview import flops_per_image

Limit = Literal["loader", "step", "exchange"]


@dataclass(frozen=True)
class Cost:
    """What a step costs at every number of patches. Arrays are float64 [N + 1], at the number of patches; [0] is nan.

    Attributes:
        where: hosts, machine and network, for people.
        sides: of a host, from the medians of the profile's repeats.
        repeats: the same of each repeat.
        exchange_s: what hosts exchange and nothing hides, besides what the profile's ranks exchanged themselves.
        measured: the numbers of patches that were.
        error: see ``pace.left_out_error``.
    """

    where: str
    sides: Sides
    repeats: list[Sides]
    exchange_s: np.ndarray
    measured: list[int]
    error: float | None

    @property
    def step_s(self) -> np.ndarray:
        """Seconds of a training step."""
        return self._seconds(self.sides)

    @property
    def falling(self) -> list[int]:
        """Measured numbers of patches whose step took longer than one of more patches, alone on a host."""
        together = self.sides.together[self.measured]
        return [
            kept
            for kept, own, later in zip(self.measured, together, _least_behind(together), strict=True)
            if own > later
        ]

    @property
    def repeats_s(self) -> list[np.ndarray]:
        return [self._seconds(sides) for sides in self.repeats]

    def limit(self, num_kept: int) -> Limit:
        """What the step waits for; exchange where it takes more of the step than computing does."""
        loader_s, step_s = self.sides.loader[num_kept], self.sides.step[num_kept]
        exchange_s = self.exchange_s[num_kept]
        if loader_s > step_s + exchange_s:
            return "loader"
        return "exchange" if exchange_s > step_s else "step"

    def _seconds(self, sides: Sides) -> np.ndarray:
        # A loader that is behind works on while ranks exchange.
        return np.maximum(sides.loader, sides.step + self.exchange_s)


@dataclass(frozen=True)
class Prediction:
    """The time of a run's training steps. Evaluation, checkpoints and the start are not in it.

    Attributes:
        predicted_s: from the medians.
        low_s, high_s: the 95 % interval of the profile's repeats (of fewer than three: their extremes), made wider by
            the error between measured stages, for the share of the time that lies between them.
        full_s: of as many steps at full patches; None where these cannot be trained.
        beyond: numbers of patches outside of what was measured.
    """

    schedule: PatchSchedule
    cost: Cost
    predicted_s: float
    low_s: float
    high_s: float
    full_s: float | None
    beyond: list[int]

    @property
    def share_of_full(self) -> float | None:
        return None if self.full_s is None else self.predicted_s / self.full_s

    def as_json(self) -> dict[str, Any]:
        cost = self.cost
        return {
            "predicted_s": self.predicted_s,
            "predicted_s_range": [self.low_s, self.high_s],
            "share_of_full": self.share_of_full,
            "interpolation_error": cost.error,
            "predicted_stages": [
                {
                    "num_kept": stage.num_kept,
                    "step_s": float(cost.step_s[stage.num_kept]),
                    "exchange_s": float(cost.exchange_s[stage.num_kept]),
                    "limited_by": cost.limit(stage.num_kept),
                    "measured": stage.num_kept in cost.measured,
                }
                for stage in self.schedule.stages()
            ],
        }


def cost_of(config: RunConfig, profile: SavedProfile, hosts: int = 1, link_gbit_per_s: float | None = None) -> Cost:
    """What a step of a run costs at every number of patches.

    Args:
        profile: of this run, whatever its schedule; with several hosts of one of them, with its share of the batch.
        link_gbit_per_s: of each host, each way; None with one host.

    Raises:
        ValueError: the profile is of another model, batch or data.
    """
    profile.check_is_of(config, hosts)
    nums_kept = np.arange(1, config.data.num_patches + 1)
    flops = np.array(flops_per_image(config, nums_kept.tolist()), dtype=float)
    stages = profile.stages
    repeats = [_measured(stages, repeat) for repeat in range(len(stages[0].both_s))]
    medians = _medians(stages, repeats)
    exchange_s, where = np.zeros(len(nums_kept)), profile.machine
    if link_gbit_per_s is not None:
        network = Network(hosts, link_gbit_per_s, hosts * profile.world_size)
        exchange_s = _exchange(config, profile, network, medians, nums_kept, flops)
        where = f"{hosts} hosts, each {profile.machine}, {link_gbit_per_s:g} Gbit/s between them"
    return Cost(
        where,
        _padded(medians.sides_at(nums_kept, flops)),
        [_padded(one.sides_at(nums_kept, flops)) for one in repeats],
        np.append(np.nan, exchange_s),
        [stage.num_kept for stage in stages],
        left_out_error(medians),
    )


def predict(config: RunConfig, schedule: PatchSchedule, cost: Cost) -> Prediction:
    """The time of a schedule's steps.

    Args:
        cost: as ``cost_of`` finds it for the same configuration, whatever its schedule.

    Raises:
        ValueError: all that was measured is one number of patches, and the schedule has others.
    """
    stages = schedule.stages()
    nums_kept, steps = (np.array([getattr(stage, name) for stage in stages]) for name in ("num_kept", "num_steps"))
    lowest, highest = cost.measured[0], cost.measured[-1]
    if lowest == highest and (nums_kept != lowest).any():
        raise ValueError(
            f"the profile measured {lowest} patches alone, which says nothing of {nums_kept[nums_kept != lowest][0]}; "
            "profile a schedule of several stages"
        )
    taken_s = steps * cost.step_s[nums_kept]
    predicted_s = float(taken_s.sum())
    low, high = _spread(cost, nums_kept, steps)
    wider = 1 + float(taken_s[~np.isin(nums_kept, cost.measured)].sum()) / predicted_s * (cost.error or 0.0)
    full_s = None
    if config.task != "pretrain":
        full_s = schedule.total_steps * float(cost.step_s[schedule.num_patches])
    return Prediction(
        schedule,
        cost,
        predicted_s,
        low_s=predicted_s * low / wider,
        high_s=predicted_s * high * wider,
        full_s=full_s,
        beyond=[int(one) for one in nums_kept if not lowest <= one <= highest],
    )


def _spread(cost: Cost, nums_kept: np.ndarray, steps: np.ndarray) -> tuple[float, float]:
    """How far the repeats lie below and above the medians' time of these steps, as shares of it."""
    middle = float((steps * cost.step_s[nums_kept]).sum())
    ratios = [float((steps * one[nums_kept]).sum()) / middle for one in cost.repeats_s]
    found = Ratio.of(ratios)
    if found is None or found.low is None or found.high is None:
        return min(ratios), max(ratios)
    return min(found.low, 1.0), max(found.high, 1.0)


def _least_behind(values: np.ndarray) -> np.ndarray:
    """At each place, the least of the values from there on."""
    return np.minimum.accumulate(values[::-1])[::-1]


def _measured(stages: list[SavedStage], repeat: int) -> Measured:
    columns = ([getattr(stage, side)[repeat] for stage in stages] for side in ("loader_s", "step_s", "both_s"))
    sizes = ([getattr(stage, size) for stage in stages] for size in ("num_kept", "flops_per_image"))
    return Measured(*(np.array(column, dtype=float) for column in (*sizes, *columns)))


def _medians(stages: list[SavedStage], repeats: list[Measured]) -> Measured:
    middle = {
        side: np.median([getattr(one, side) for one in repeats], axis=0) for side in ("loader_s", "step_s", "both_s")
    }
    return replace(_measured(stages, 0), **middle)


def _padded(sides: Sides) -> Sides:
    """With nothing at no patches, so that a number of patches is its own place."""
    return Sides(np.append(np.nan, sides.loader), np.append(np.nan, sides.step))


def _exchange(
    config: RunConfig,
    profile: SavedProfile,
    network: Network,
    medians: Measured,
    nums_kept: np.ndarray,
    flops: np.ndarray,
) -> np.ndarray:
    parts: Mapping[str, np.ndarray] = {
        part: np.interp(flops, medians.flops, [getattr(stage, part) for stage in profile.stages])
        for part in ("forward_s", "backward_s", "exchange_s")
    }
    micro_batches = plan_micro_batches(config, network.ranks)
    exposed = exposed_s(
        config,
        network,
        num_parameters(config),
        passes=np.array([micro_batches.steps(one) for one in nums_kept.tolist()]),
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
