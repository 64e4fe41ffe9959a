"""A prediction as text for people."""

from tools.schedule.prediction import Cost, Prediction

_TABLE_ROWS = 24


def describe_prediction(found: Prediction) -> str:
    """The run's time, what each stage's steps wait for, and how far to trust it."""
    cost = found.cost
    full = "" if found.full_s is None else f", {found.share_of_full:.1%} of full patches' {found.full_s:,.1f} s"
    lines = [
        f"predicted: {found.predicted_s:,.1f} s of training steps ({found.low_s:,.1f} to {found.high_s:,.1f}){full}",
        f"on {cost.where}; without evaluation, checkpoints and the start",
        "",
        f"{'num_kept':>9} {'step ms':>9} {'exchange ms':>12} {'waits for':>10}  measured",
        *_rows(found),
        "",
        *doubts(cost),
    ]
    if found.beyond:
        lines.append(
            f"measured were {cost.measured[0]} to {cost.measured[-1]} patches; of {len(found.beyond)} stage(s) outside "
            f"of that, from {min(found.beyond)} patches on, nothing says how wrong the time is"
        )
    return "\n".join(lines).rstrip()


def doubts(cost: Cost) -> list[str]:
    """How far a profile's times may be trusted, in sentences."""
    lines = []
    if cost.error is not None:
        lines.append(
            f"between measured stages the time is interpolated: each is told by the others within {cost.error:.1%}"
        )
    if cost.falling:
        kept = ", ".join(map(str, cost.falling))
        lines.append(
            f"a step of {kept} patches was measured to take longer than one of more patches: something else ran beside "
            "the profile, or fewer patches gain nothing here; profile again with more --repeats"
        )
    return lines


def _rows(found: Prediction) -> list[str]:
    cost = found.cost
    rows = [
        f"{kept:>9} {1000 * cost.step_s[kept]:>9.2f} {1000 * cost.exchange_s[kept]:>12.2f} {cost.limit(kept):>10}  "
        + ("yes" if kept in cost.measured else "no")
        for kept in (stage.num_kept for stage in found.schedule.stages())
    ]
    if len(rows) > _TABLE_ROWS:
        half = _TABLE_ROWS // 2
        rows[half:-half] = [f"{'...':>9} {len(rows) - 2 * half} more stages (all of them with --json)"]
    return rows
