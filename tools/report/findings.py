"""What a study found, in sentences that are worked out from its figures."""

from tools.report.study_files import FULL, Study
from tools.report.study_sweep import best_rules
from tools.report.verdict import CLEARLY, Verdict, Word, seeds_in_words
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
    sentences += [_speed_and_accuracy(study, others), _extremes(others)]
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


def _verdict(study: Study, variant: VariantResult, other: VariantResult | None = None) -> Verdict | None:
    """Of a variant against another, the reference by default; None where they have no seed in common."""
    differences = study.differences(variant, other)
    return Verdict(tuple(differences)) if differences else None


_THAN_THE_REFERENCE: dict[Word, str] = {
    "clearly better": "clearly more accurate",
    "not told apart": "not told apart from it",
    "clearly worse": "clearly less accurate",
}


def _speed_and_accuracy(study: Study, others: list[VariantResult]) -> str:
    """How accurate the variants are that are faster than the reference, and the fastest one that loses nothing."""
    faster = {
        variant.name: (variant, verdict)
        for variant in others
        if (verdict := _verdict(study, variant)) is not None and variant.time_ratio is not None
        if variant.time_ratio < 1
    }
    if not faster:
        return f"No variant is faster than {study.reference}."
    told = [
        f"{words}: {_names([variant for variant, verdict in faster.values() if verdict.word == word])}"
        for word, words in _THAN_THE_REFERENCE.items()
        if any(verdict.word == word for _, verdict in faster.values())
    ]
    text = f"With all patches, of the variants that are faster than {study.reference}: {'; '.join(told)}."
    counts = [len(verdict.differences) for _, verdict in faster.values()]
    if all(verdict.half_width is None for _, verdict in faster.values()):
        text += f" These are {seeds_in_words(counts)}, too few to tell any difference from chance."
    else:
        text += f" {CLEARLY}"
    level = [one for one in faster.values() if one[1].word != "clearly worse"]
    if not level:
        return text
    best, verdict = min(level, key=lambda one: one[0].time_ratio or 1.0)
    return (
        f"{text} The fastest that is not clearly less accurate, {best.name}, takes {_ratio(best)} of the reference's "
        f"{study.clock} and reaches {_percent(best, FULL)} ({verdict.figures})."
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
        verdict = None if beside is None else _verdict(study, beside, short)
        if beside is None or verdict is None:
            continue
        told = "not told apart from it" if verdict.word == "not told apart" else verdict.word
        sentences.append(
            f"Training with all patches for fewer steps ({short.name}, {_ratio(short)} of the reference's time) "
            f"reaches {_percent(short, FULL)}. {beside.name}, with {_ratio(beside)} of the time, is {told} "
            f"({verdict.figures})."
        )
    return sentences
