"""What a start of a run is asked for, and all that can be found wrong with it in a moment."""

from dataclasses import dataclass
from pathlib import Path

from engine.checkpoints.resume import check_allowed_keys, check_resume, identity
from engine.config import RunConfig
from engine.ranks.rendezvous import Place
from engine.run.inputs import check_monitors, open_inputs
from engine.run_plan import RunPlan


@dataclass(frozen=True)
class Request:
    """What one start of a run is asked for: a configuration, and what the command line says besides.

    Attributes:
        folder: the run folder.
        stop_after: the number of steps after which it ends, as a finished run; None: all that are planned.
        resume: ``auto``, ``never`` or the path of a checkpoint, as ``choose_start`` takes it.
        allowed: keys whose values may differ from those of the checkpoint.
    """

    config: RunConfig
    folder: Path
    stop_after: int | None = None
    resume: str = "auto"
    allowed: tuple[str, ...] = ()

    def stop_step(self, plan: RunPlan) -> int:
        """The number of steps that are trained when the run is done."""
        return min(plan.total_steps, self.stop_after or plan.total_steps)


def look_at(request: Request, place: Place) -> None:
    """Look at everything a run needs for which no library must be loaded that takes seconds.

    Raises:
        ValueError, OSError: it cannot be used.
    """
    if place.is_first:
        check_monitors(request.config.monitor)
    inputs = open_inputs(request.config, place.size, place.local_size)
    of_maps, of_anchor = ("" if there else None for there in (inputs.maps, request.config.train.anchor))
    check_allowed_keys(request.allowed, identity(request.config, inputs.train_index, of_maps, of_anchor))
    if place.is_first:
        check_resume(request.resume)
