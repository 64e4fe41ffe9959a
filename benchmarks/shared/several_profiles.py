"""Several profiles of the same run as one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from tools.profile.saved import SavedProfile, SavedStage


def of_several(
    profiles: Sequence[SavedProfile], repeats: Callable[[Iterable[float]], tuple[float, ...]]
) -> SavedProfile:
    """The first profile with each stage's sides made of all of them.

    Args:
        repeats: what is taken for the repeats of a side, in seconds, from the repeats of that side in all profiles.
    """

    def merged(measured: Sequence[SavedStage]) -> SavedStage:
        return replace(
            measured[0],
            loader_s=repeats(s for one in measured for s in one.loader_s),
            step_s=repeats(s for one in measured for s in one.step_s),
            both_s=repeats(s for one in measured for s in one.both_s),
        )

    stages = [merged(together) for together in zip(*(one.stages for one in profiles), strict=True)]
    return replace(profiles[0], stages=stages)
