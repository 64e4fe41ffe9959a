"""A prediction as text for people."""

from collections.abc import Sequence

from tools.schedule.pace import Shape
from tools.schedule.prediction import Cost, Prediction, told_shapes

_SIZES_HEAD = f"{'image_size':>11} {'patch_size':>11} "
_TABLE_ROWS = 24


def describe_prediction(found: Prediction) -> str:
    """The run's time, what each stage's steps wait for, and how far to trust it."""
    cost = found.cost
    full = "" if found.full_s is None else f", {found.share_of_full:.1%} of full patches' {found.full_s:,.1f} s"
    lines = [
        f"predicted: {found.predicted_s:,.1f} s of training steps ({found.low_s:,.1f} to {found.high_s:,.1f}){full}",
        f"on {cost.where}; without evaluation, checkpoints and the start",
        "",
        f"{'num_kept':>9} {_SIZES_HEAD if found.schedule.config.sizes else ''}{'step ms':>9} {'exchange ms':>12} "
        f"{'waits for':>10}  measured",
        *_rows(found),
        "",
        *doubts(cost, found.shapes),
    ]
    if found.beyond:
        known = sorted(cost.medians.shapes, key=lambda shape: cost.flops([shape])[0])
        measured, beyond = told_shapes(known, found.beyond), told_shapes(found.beyond, known)
        lines.append(
            f"measured were {measured[0]} to {measured[-1]} patches; of {len(beyond)} stage(s) outside of that, from "
            f"{beyond[0]} patches on, nothing says how wrong the time is"
        )
    return "\n".join(lines).rstrip()


def doubts(cost: Cost, shapes: Sequence[Shape]) -> list[str]:
    """How far a profile's times of some stages may be trusted, in sentences."""
    lines = []
    if cost.error is not None:
        lines.append(
            f"between measured stages the time is interpolated: each is told by the others within {cost.error:.1%}"
        )
    largest = cost.medians.image_sizes[-1]
    smaller = sorted({shape.image_size for shape in shapes if shape.image_size < largest})
    if smaller and len(cost.medians.image_sizes) == 1:
        lines.append(
            f"the loader was measured at images of {largest} pixels alone: at {', '.join(map(str, smaller))} it is "
            "taken to need as long for as many pixels kept, and may need less; profile a schedule with these sizes"
        )
    if cost.falling:
        kept = ", ".join(map(str, cost.falling))
        lines.append(
            f"a step of {kept} patches was measured to take longer than one of more patches: something else ran beside "
            "the profile, or fewer patches gain nothing here; profile again with more --repeats"
        )
    return lines


def _rows(found: Prediction) -> list[str]:
    steps, with_sizes = found.steps, bool(found.schedule.config.sizes)
    rows = [
        f"{shape.num_kept:>9} {f'{shape.image_size:>11} {shape.patch_size:>11} ' if with_sizes else ''}"
        f"{1000 * steps.step_s[place]:>9.2f} {1000 * steps.exchange_s[place]:>12.2f} {steps.limit(place):>10}  "
        + ("yes" if shape in found.cost.medians.shapes else "no")
        for place, shape in enumerate(found.shapes)
    ]
    if len(rows) > _TABLE_ROWS:
        half = _TABLE_ROWS // 2
        rows[half:-half] = [f"{'...':>9} {len(rows) - 2 * half} more stages (all of them with --json)"]
    return rows
