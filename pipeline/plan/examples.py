"""Which examples a short epoch sees, and what each of them weighs in the loss.

Chosen at the start of the epoch from a snapshot of scores, one for each sample, and from keyed random numbers: so it is
the same on any number of ranks and after a resume. The number that is kept is planned. What is left out is not read.

The rule ``loss`` is InfoBatch's (arXiv 2303.04947) with a planned number: whoever is left out is stood for by others
of its group, so that the expected sum of an epoch's gradients is that of all examples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from pipeline.plan import keyed
from pipeline.plan.epochs import Epochs
from pipeline.plan.keyed import Stream
from pipeline.settings import Settings, one_of

_LEAST_EASY = 4  # the share kept of the easy ones is at least that of all over this


class Chosen(NamedTuple):
    """The examples of an epoch: M of n places.

    Attributes:
        places: int64 [M], ascending.
        weights: float32 [M], each one's factor of its loss; None where all weigh 1.
    """

    places: np.ndarray
    weights: np.ndarray | None


def by_loss(scores: np.ndarray, num_kept: int, draws: np.ndarray) -> Chosen:
    """All hard examples, whose loss is above the mean or not known yet, and a random part of the easy others.

    Of the easy ones a share is kept of at least a quarter of what is kept of all: every example has its chance, and no
    weight exceeds four times ``n / num_kept``. Where that leaves too little room for all hard ones, a random part of
    these is kept as well. Each group's examples weigh its size over how many of it are kept.
    """
    known = scores[~np.isnan(scores)]
    is_easy = scores <= known.mean(dtype=np.float64) if known.size else np.ones(len(scores), dtype=bool)
    easy, hard = np.flatnonzero(is_easy), np.flatnonzero(~is_easy)
    num_easy = max(num_kept - len(hard), -(-len(easy) * num_kept // (_LEAST_EASY * len(scores))))
    kept_easy, kept_hard = _lowest(easy, num_easy, draws), _lowest(hard, num_kept - num_easy, draws)
    places = np.concatenate([kept_easy, kept_hard])
    weights = np.concatenate([_stand_for(easy, kept_easy), _stand_for(hard, kept_hard)])
    order = np.argsort(places)
    return Chosen(places[order], weights[order])


def by_forgetting(scores: np.ndarray, num_kept: int, draws: np.ndarray) -> Chosen:
    """The examples that were forgotten most often, those never learnt before all; of equals a random part.

    All weigh 1, as in Tri-Level E-ViT (arXiv 2211.10801): the gradient is that of the examples kept, not of all.
    """
    times = np.where(np.isnan(scores), np.inf, scores)
    return Chosen(np.sort(np.lexsort((draws, -times))[:num_kept]), None)


def by_chance(scores: np.ndarray, num_kept: int, draws: np.ndarray) -> Chosen:
    """A fresh random part in each epoch; all weigh 1, and a step's expected gradient is that of all examples."""
    return Chosen(np.sort(_lowest(np.arange(len(draws)), num_kept, draws)), None)


def _lowest(group: np.ndarray, num_kept: int, draws: np.ndarray) -> np.ndarray:
    """The ``num_kept`` of a group with the smallest draws: every part of that size is as likely."""
    return group[np.argsort(draws[group], kind="stable")[:num_kept]]


def _stand_for(group: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return np.full(len(kept), len(group) / max(1, len(kept)), dtype=np.float32)


@dataclass(frozen=True)
class Rule:
    """How examples are chosen.

    Attributes:
        choose: of scores float32 [n] (NaN: not known yet), the number to keep and draws uint64 [n], one for each.
        about: for people.
        is_scored: whether it looks at the scores, which the trainer records under the rule's name.
        has_classes: whether the scores are about classes, which images have under ``task: classify`` alone.
    """

    choose: Callable[[np.ndarray, int, np.ndarray], Chosen]
    about: str
    is_scored: bool = True
    has_classes: bool = False


RULES = {
    "loss": Rule(
        by_loss,
        "all examples whose loss was above the mean at their last visit, and a random part of the others, weighted so "
        "that the expected gradient is that of all (InfoBatch)",
    ),
    "forgetting": Rule(
        by_forgetting,
        "those that were classified right and then wrong most often, or never right (Tri-Level E-ViT)",
        has_classes=True,
    ),
    "random": Rule(by_chance, "a fresh random part in each epoch", is_scored=False),
}


class ExamplesConfig(Settings):
    """Epochs that leave examples out, before anything of them is read; the last eighth of the epochs sees all."""

    rule: Annotated[str, one_of(RULES)] = Field(description="; ".join(f"{k}: {r.about}" for k, r in RULES.items()))
    keep: float = Field(
        gt=0, lt=1, description="share of the examples that an epoch sees, rounded to whole steps; epochs get as short"
    )

    @property
    def of_rule(self) -> Rule:
        return RULES[self.rule]


def check_fits(
    examples: ExamplesConfig, *, echo: int, repeats: int, task: str, is_mixed: bool = False, grows: bool = False
) -> None:
    """Raise ValueError where an epoch would not see each of its examples once, or has no classes to forget.

    Args:
        is_mixed: the training data are several sources, whose shares of a batch are stated.
        grows: they have grown while the run went on.
    """
    if grows:
        raise ValueError(
            "schedule.examples chooses among the examples that are there from the start, and data.growth says that "
            "some came later; leave schedule.examples out, or start a new run over the larger set"
        )
    if is_mixed:
        raise ValueError(
            "schedule.examples leaves examples out of one set's epochs, and data.train names several sources, each of "
            "which is passed over by itself; leave schedule.examples out, or let data.train be one folder"
        )
    shown_often = {"data.echo": echo, "data.augment.repeats": repeats}
    for key, times in shown_often.items():
        if times > 1:
            raise ValueError(
                f"schedule.examples leaves examples out of epochs that see each once, and {key} {times} shows them "
                f"several times; set {key} to 1, or leave schedule.examples out"
            )
    if examples.of_rule.has_classes and task != "classify":
        allowed = ", ".join(name for name, rule in RULES.items() if not rule.has_classes)
        raise ValueError(
            f"schedule.examples.rule {examples.rule} looks at classes, which task {task} has none of; choose one of "
            f"{allowed}"
        )


def describe(examples: ExamplesConfig | None, epochs: Epochs, total_steps: int) -> list[str]:
    """A line for people about a run's epochs; none where they leave no example out."""
    if examples is None:
        return []
    return [
        f"examples by {examples.rule}: the first {epochs.num_short} epochs see "
        f"{epochs.short_steps / epochs.full_steps:.1%} of them, in {epochs.short_steps:,} steps each, then all, in "
        f"{epochs.full_steps:,}; {epochs.share_of_full(total_steps):.1%} of the steps of as many full epochs"
    ]


@dataclass(frozen=True, eq=False)
class SampleScores:
    """What the samples scored when last visited; in force for the epoch that begins at ``step``.

    Attributes:
        scores: float32, one for each sample id; NaN where nothing is known yet.
    """

    step: int
    scores: np.ndarray

    @classmethod
    def unknown(cls, step: int, num_ids: int) -> "SampleScores":
        """As before the first step: nothing is known of any sample."""
        return cls(step, np.full(num_ids, np.nan, dtype=np.float32))


def choose_examples(
    config: ExamplesConfig, scores: np.ndarray | None, *, seed: int, epoch: int, num_samples: int, num_kept: int
) -> Chosen:
    """The ``num_kept`` of ``num_samples`` examples that an epoch sees.

    Args:
        scores: float32 [num_samples]; None where nothing is known of any.
    """
    draws = keyed.words(seed, Stream.EXAMPLES, epoch, num_samples)
    if scores is None:
        scores = np.full(num_samples, np.nan, dtype=np.float32)
    chosen = config.of_rule.choose(scores, num_kept, draws)
    assert len(chosen.places) == num_kept
    return chosen
