"""What a study found, in sentences that are worked out from its figures."""

from tools.report.study_files import FULL, Study
from tools.report.study_sweep import best_rules
from tools.study.result import VariantResult

_LOW = "0.4"


def findings(study: Study) -> list[str]:
    """A few sentences for somebody who knows neither the code nor the variants."""
    reference = study.variant(study.reference)
    if not study.variants:
        return ["No run of the study is finished yet."]
    sentences = [_compared(study)]
    if not study.result.complete:
        sentences.append("The study is not complete yet: the sentences and figures here are of the runs that are done.")
    if reference is None or reference.top1(FULL) is None:
        return [*sentences, f"The reference, {study.reference or 'which is not named'}, has no finished run yet."]
    others = [one for one in study.variants if one.name != study.reference and one.top1(FULL)]
    sentences.append(f"The reference {study.reference} reaches {_percent(reference, FULL)} top-1.")
    if not others:
        return sentences
    sentences += [_speed_without_loss(study, others), _extremes(others)]
    low = [one for one in (reference, *others) if one.top1(_LOW)]
    if len(low) > 1 and reference.top1(_LOW):
        best = max(low, key=lambda one: _mean(one, _LOW))
        sentences.append(
            f"Where the trained model looks at {float(_LOW):.0%} of the patches only, {best.name} is best with "
            f"{_percent(best, _LOW)} (patches chosen by {best.rule}); {study.reference} has "
            f"{_percent(reference, _LOW)} (by {reference.rule})."
        )
        at_best = best_rules(study, float(_LOW))
        sentences += [at_best] if at_best else []
    return sentences + _equal_time(study)


def _compared(study: Study) -> str:
    schedules = sorted({one.schedule for one in study.variants if one.name != study.reference})
    rules = sorted({one.rule for one in study.variants if one.name != study.reference})
    fewest, most = (extreme(len(one.runs) for one in study.variants) for extreme in (min, max))
    often = f"{most} times, with different random seeds" if fewest == most else f"{fewest} to {most} times so far"
    times = "once" if most == 1 else often
    return (
        f"An image is cut into patches, and a schedule says which share of them the model sees at each step of "
        f"training; fewer patches are less work. {len(study.variants)} ways to train the same model were compared "
        f"(schedules: {', '.join(schedules) or 'none'}; rules by which patches are chosen: "
        f"{', '.join(rules) or 'none'}), each {times}."
    )


def _mean(variant: VariantResult, rate: str) -> float:
    measured = variant.top1(rate)
    assert measured is not None
    return measured[0]


def _percent(variant: VariantResult, rate: str) -> str:
    measured = variant.top1(rate)
    assert measured is not None
    mean, spread = measured
    return f"{mean:.2%}" if spread is None else f"{100 * mean:.2f}\u00a0±\u00a0{100 * spread:.2f}\u00a0%"


def _ratio(variant: VariantResult) -> str:
    return "an unknown share" if variant.time_ratio is None else f"{variant.time_ratio:.0%}"


def _points(value: float) -> str:
    return f"{100 * value:+.2f} points"


def _speed_without_loss(study: Study, others: list[VariantResult]) -> str:
    """The fastest variant that is not less accurate than the reference by more than the spread of the difference."""
    level = []
    for variant in others:
        difference = study.difference(variant)
        if difference is not None and variant.time_ratio is not None and difference[0] >= -(difference[1] or 0.0):
            level.append(variant)
    faster = [one for one in level if one.time_ratio is not None and one.time_ratio < 1]
    if not faster:
        return (
            f"No variant is both faster than {study.reference} and as accurate with all patches, that is, within one "
            "standard deviation of the paired differences."
        )
    best = min(faster, key=lambda one: one.time_ratio or 1.0)
    difference = study.difference(best)
    assert difference is not None
    return (
        f"As accurate as {study.reference} with all patches, within one standard deviation of the paired differences, "
        f"and faster: {_names(faster)}. The fastest of these, {best.name}, takes {_ratio(best)} of the reference's "
        f"{study.clock} and reaches {_percent(best, FULL)} ({_points(difference[0])})."
    )


def _names(variants: list[VariantResult]) -> str:
    return ", ".join(one.name for one in variants)


def _extremes(others: list[VariantResult]) -> str:
    most = max(others, key=lambda one: _mean(one, FULL))
    text = f"The most accurate variant besides the reference is {most.name} with {_percent(most, FULL)}"
    timed = [one for one in others if one.time_ratio is not None]
    if not timed:
        return text + "."
    fastest = min(timed, key=lambda one: one.time_ratio or 1.0)
    if fastest.name == most.name:
        return f"{text}, which is also the fastest: {_ratio(fastest)} of the reference's time."
    return (
        f"{text} in {_ratio(most)} of the reference's time; the fastest is {fastest.name}, with "
        f"{_percent(fastest, FULL)} in {_ratio(fastest)} of it."
    )


def _equal_time(study: Study) -> list[str]:
    """One sentence a run of full patches that had no more time than a variant."""
    sentences = []
    for short in study.equal_time:
        beside = study.beside(short)
        gain = None if beside is None else study.difference(beside, short)
        if beside is None or gain is None:
            continue
        mean, spread = gain
        by_seed = "" if spread is None else f" (± {100 * spread:.2f}, paired by seed)"
        sentences.append(
            f"Training with all patches for fewer steps ({short.name}, {_ratio(short)} of the reference's time) "
            f"reaches {_percent(short, FULL)}. {beside.name}, with {_ratio(beside)} of the time, is "
            f"{abs(100 * mean):.2f} points {'better' if mean >= 0 else 'worse'}{by_seed}."
        )
    return sentences
