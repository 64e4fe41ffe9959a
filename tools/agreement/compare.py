"""Every rule beside the exact magnitude rule: which patches they share, and what each costs on one core."""

import statistics
import time
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from pipeline.plan import keyed
from pipeline.plan.keyed import Stream
from pipeline.plan.schedule import num_kept_at
from pipeline.selection.config import SelectionConfig, open_scores, select
from pipeline.selection.magnitude import EmbeddingSnapshot, MagnitudeScorer
from pipeline.selection.rules import RULES
from tools.command import bar_interval_s

KEEP_RATES = (0.8, 0.6, 0.4, 0.2)
_SIZES = (1 / 40, 1 / 20, 1 / 10, 1 / 4)  # of the estimates, as shares of the embedding
REPEATS = 7
_IMAGES_TIMED = 32


@dataclass(frozen=True)
class Rule:
    """A rule as it was compared.

    Attributes:
        overlap: per keep rate, the mean share of the exact rule's patches that this one keeps.
        rank_correlation: None for a rule without scores.
        cost_us: to score and rank one image; the median, and the extremes of the repeats.
        multiply_adds: per image, of the scores' matrix products.
    """

    name: str
    overlap: dict[str, float]
    rank_correlation: float | None
    cost_us: float
    cost_us_spread: tuple[float, float]
    multiply_adds: int


def rules_to_compare(snapshot: EmbeddingSnapshot) -> dict[str, SelectionConfig]:
    """Every rule, and the estimates at several sizes, by name; the exact rule first."""
    width = snapshot.kernel.shape[0]
    found = {"magnitude": SelectionConfig(rule="magnitude")}
    for estimate in ("sketch", "rows"):
        for size in sorted({max(1, round(share * width)) for share in _SIZES}):
            config = SelectionConfig(rule="magnitude", estimate=estimate, estimate_size=size)
            found[f"magnitude, {estimate} of {size}"] = config
    others = [name for name, rule in reversed(RULES.items()) if not rule.estimates and rule.looks_at != "map"]
    return found | {name: SelectionConfig(rule=name) for name in others}


class Scoring:
    """One rule on a batch of images, in the two pieces that the pipeline has: scores, then a selection."""

    def __init__(self, selection: SelectionConfig, snapshot: EmbeddingSnapshot, grid_size: int) -> None:
        self.selection, self._grid_size = selection, grid_size
        self._scores = open_scores(selection, grid_size, snapshot=snapshot)
        self._scorer = MagnitudeScorer(snapshot, selection, grid_size, 0) if selection.needs_model else None

    def scores(self, images: np.ndarray, noise: np.ndarray) -> np.ndarray | None:
        """float32 [B, N]; None where the rule has no scores."""
        if self._scores is not None:
            return self._scores(list(images))
        return noise if noise.shape[1] == self.selection.noise_columns(self._grid_size**2) else None

    def ids(self, scores: np.ndarray | None, noise: np.ndarray, num_kept: int) -> np.ndarray:
        return select(scores, noise, num_kept, self._grid_size, self.selection)

    @property
    def multiply_adds(self) -> int:
        return 0 if self._scorer is None else self._grid_size**2 * self._scorer.arrays()[0].size


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, the mean over the rows of two tables [B, N]; equal scores rank by index."""
    ranks = [np.argsort(np.argsort(table, axis=1, kind="stable"), axis=1).astype(float) for table in (a, b)]
    x, y = (table - table.mean(axis=1, keepdims=True) for table in ranks)
    return float(((x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))).mean())


def overlap(ids: np.ndarray, others: np.ndarray) -> float:
    """The mean share of each row of ``ids`` [B, K] that also stands in the row of ``others``."""
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(ids, others, strict=True)]))


def compare(snapshot: EmbeddingSnapshot, images: np.ndarray, patch_size: int) -> list[Rule]:
    """Every rule beside the exact one, on uint8 [B, S, S, 3]."""
    grid = images.shape[1] // patch_size
    noise = keyed.uniform(0, Stream.SELECTION, 0, first_row=0, num_rows=len(images), num_columns=grid * grid)
    rules = {name: Scoring(config, snapshot, grid) for name, config in rules_to_compare(snapshot).items()}
    nums_kept = {rate: num_kept_at(rate, grid * grid) for rate in KEEP_RATES}
    exact = rules["magnitude"].scores(images, noise)
    assert exact is not None
    costs = _costs(rules, images[:_IMAGES_TIMED], noise[:_IMAGES_TIMED], nums_kept[0.4])
    found = []
    for name, rule in tqdm(rules.items(), desc="comparing", unit="rule", mininterval=bar_interval_s()):
        scores = rule.scores(images, noise)
        shares = {
            f"{rate:g}": overlap(rules["magnitude"].ids(exact, noise, kept), rule.ids(scores, noise, kept))
            for rate, kept in nums_kept.items()
        }
        correlation = None if scores is None else rank_correlation(exact, scores)
        us = costs[name]
        spread = (min(us), max(us))
        found.append(Rule(name, shares, correlation, statistics.median(us), spread, rule.multiply_adds))
    return found


def _costs(rules: dict[str, Scoring], images: np.ndarray, noise: np.ndarray, num_kept: int) -> dict[str, list[float]]:
    """Microseconds an image, several times, the rules in turn."""
    found: dict[str, list[float]] = {name: [] for name in rules}
    # To stderr: its bar, with rate and time left, leaves the table on stdout alone.
    for repeat in tqdm(range(REPEATS + 1), desc="timing", unit="round", mininterval=bar_interval_s()):
        for name, rule in rules.items():
            start = time.perf_counter()
            rule.ids(rule.scores(images, noise), noise, num_kept)
            if repeat:  # the first time warms up
                found[name].append((time.perf_counter() - start) / len(images) * 1e6)
    return found


def describe(title: str, rules: list[Rule]) -> str:
    """The comparison as a table for people."""
    exact = rules[0]
    head = "".join(f"{f'keep {rate:g}':>10}" for rate in KEEP_RATES)
    lines = [title, "", f"{'rule':28}{head}{'rank corr.':>12}{'µs/image':>10}{'of exact':>10}"]
    for rule in rules:
        shares = "".join(f"{rule.overlap[f'{rate:g}']:>10.1%}" for rate in KEEP_RATES)
        correlation = f"{rule.rank_correlation:>12.3f}" if rule.rank_correlation is not None else f"{'-':>12}"
        lines.append(f"{rule.name:28}{shares}{correlation}{rule.cost_us:>10.0f}{rule.cost_us / exact.cost_us:>10.1%}")
    return "\n".join(lines)
