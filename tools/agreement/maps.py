"""Score maps beside the rules that look at the images themselves: which patches they share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.plan.schedule import num_kept_at
from pipeline.selection.config import SelectionConfig, open_scores
from pipeline.selection.magnitude import EmbeddingSnapshot
from pipeline.selection.rules import RULES, top_k
from tools.agreement.compare import KEEP_RATES, overlap, rank_correlation


@dataclass(frozen=True)
class MapAgreement:
    """A score map beside a rule.

    Attributes:
        map: the map's name.
        rule: the rule that it is held against, which scores the finished images.
        overlap: per keep rate, the mean share of the rule's patches that the map keeps.
        rank_correlation: Spearman's, of the scores.
    """

    map: str
    rule: str
    overlap: dict[str, float]
    rank_correlation: float


def compare_maps(
    snapshot: EmbeddingSnapshot, images: np.ndarray, patch_size: int, maps: Mapping[str, np.ndarray]
) -> list[MapAgreement]:
    """Every map beside every rule that looks at images.

    Args:
        images: uint8 [B, S, S, 3].
        maps: float32 [B, N], the scores of the same images' patches, by the maps' names.
    """
    grid = images.shape[1] // patch_size
    nums_kept = {rate: num_kept_at(rate, grid * grid) for rate in KEEP_RATES}
    exact = {}
    for name in [name for name, rule in RULES.items() if rule.looks_at_images] if maps else []:
        scores = open_scores(SelectionConfig(rule=name), grid, snapshot=snapshot)
        assert scores is not None
        exact[name] = scores(list(images))
    return [
        MapAgreement(
            name,
            rule,
            {f"{rate:g}": overlap(top_k(scores, kept), top_k(table, kept)) for rate, kept in nums_kept.items()},
            rank_correlation(scores, table),
        )
        for name, table in maps.items()
        for rule, scores in exact.items()
    ]


def describe_maps(found: Sequence[MapAgreement]) -> str:
    """The comparison as a table for people; empty where there are no maps."""
    if not found:
        return ""
    head = "".join(f"{f'keep {rate:g}':>10}" for rate in KEEP_RATES)
    lines = ["", "", "score maps: the share of a rule's patches that a map keeps", ""]
    lines.append(f"{'map, beside rule':28}{head}{'rank corr.':>12}")
    for one in found:
        shares = "".join(f"{one.overlap[f'{rate:g}']:>10.1%}" for rate in KEEP_RATES)
        lines.append(f"{f'map:{one.map}, {one.rule}':28}{shares}{one.rank_correlation:>12.3f}")
    return "\n".join(lines)
