"""The settings of the selection, held against the table of rules."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.selection.magnitude import ESTIMATES, EmbeddingSnapshot
from pipeline.selection.maps import check_map_name
from pipeline.selection.patches import unpatchify
from pipeline.selection.rules import RULES, Rule, Scores, perturbed, top_k
from pipeline.settings import Settings, one_of


class SelectionConfig(Settings):
    """Which patches are kept."""

    rule: Annotated[str, one_of(RULES)] = Field(
        "contrast",
        description="magnitude is the paper's; it looks through the model, map at stored scores, the others at pixels "
        "or at none",
    )
    map: str | None = Field(
        None,
        description="for map: name of the score maps beside the shards, such as contrast; tools.shards score makes "
        "them",
    )
    temperature: float = Field(
        0.0, ge=0, le=1e6, description="0: the best patches; larger: sampled, with chances that grow with the score"
    )
    estimate: Literal["none", "rows", "sketch"] = Field(
        "none",
        description="for magnitude. none: the exact rule; rows: over some rows of the embedding; sketch: in its main "
        "directions",
    )
    estimate_size: int = Field(32, ge=1, le=10**6, description="rows, or directions, of the estimate")
    snapshot_at: Literal["start", "epoch", "stage"] = Field(
        "epoch",
        description="for magnitude: when the pipeline gets the model's embedding anew; at the start only, at each "
        "epoch, or wherever the schedule changes its stage",
    )

    @model_validator(mode="after")
    def _fits_the_rule(self) -> "SelectionConfig":
        if self.needs_map and self.map is None:
            raise ValueError(
                f"rule {self.rule!r} needs selection.map, the name of score maps beside the shards, such as contrast; "
                "make some with: python -m tools.shards score DIR --by contrast"
            )
        if self.map is not None:
            check_map_name(self.map)
            if not self.needs_map:
                raise ValueError(f"map {self.map!r} is of the rule 'map'; rule {self.rule!r} has none, leave it out")
        if self.temperature > 0 and not self.of_rule.is_scored:
            raise ValueError(f"rule {self.rule!r} has no score that a temperature could soften; leave it at 0")
        if self.estimate != "none" and not self.of_rule.estimates:
            estimated = " or ".join(repr(name) for name, rule in RULES.items() if rule.estimates)
            raise ValueError(f"estimate {self.estimate!r} is of the rule {estimated}; rule {self.rule!r} has none")
        return self

    @property
    def of_rule(self) -> Rule:
        return RULES[self.rule]

    @property
    def is_planned(self) -> bool:
        """Whether the rule looks at no image, nor at anything made of one, so that its choice is part of the plan."""
        return self.of_rule.looks_at == "plan"

    @property
    def needs_map(self) -> bool:
        """Whether the rule looks at score maps, which lie beside the shards."""
        return self.of_rule.looks_at == "map"

    @property
    def needs_model(self) -> bool:
        """Whether the rule looks through the model, so that the pipeline needs snapshots of its embedding."""
        return self.of_rule.looks_at == "model"

    def noise_columns(self, num_patches: int) -> int:
        """How many random numbers the selection takes for one image."""
        return num_patches if self.temperature > 0 else self.of_rule.num_noise(num_patches)


def select(
    scores: np.ndarray | None, noise: np.ndarray, num_kept: int, grid_size: int, selection: SelectionConfig
) -> np.ndarray:
    """The kept patches of a batch under a rule.

    Args:
        scores: float32 [B, N] where the rule scores patches, else None.
        noise: float32 [B, C] in [0, 1), as many columns as the selection asks for.

    Returns:
        int32 [B, K], ascending patch indices.
    """
    choose = selection.of_rule.choose
    if choose is not None:
        return choose(noise, num_kept, grid_size)
    assert scores is not None
    return top_k(perturbed(scores, noise, selection.temperature), num_kept)


def open_scores(
    selection: SelectionConfig, grid_size: int, *, snapshot: EmbeddingSnapshot | None = None, seed: int = 0
) -> Scores | None:
    """What scores images under a rule; None where the rule looks at no image.

    Args:
        snapshot: of the model's embedding, for a rule that looks through the model.
        seed: key of what an estimate draws.
    """
    rule = selection.of_rule
    if rule.scorer is not None:
        assert snapshot is not None
        return rule.scorer(snapshot, selection, grid_size, seed).scores
    score: Callable[..., np.ndarray] | None = rule.scores
    return None if score is None else lambda images: score(images, grid_size)


def open_patch_scores(
    selection: SelectionConfig, grid_size: int, *, snapshot: EmbeddingSnapshot | None = None, seed: int = 0
) -> Callable[[np.ndarray], np.ndarray] | None:
    """``open_scores`` for images that come as all their patches, uint8 [B, N, P*P*3]."""
    rule = selection.of_rule
    if rule.scorer is not None:
        assert snapshot is not None
        return rule.scorer(snapshot, selection, grid_size, seed).patch_scores
    score = open_scores(selection, grid_size)

    def scores(patches: np.ndarray) -> np.ndarray:
        assert score is not None
        patch_size = round((patches.shape[2] / 3) ** 0.5)
        return score(list(unpatchify(patches, patch_size)))

    return None if score is None else scores


def rule_forms() -> str:
    """Every form of a rule's name, in words."""
    forms = [f"{name}:NAME" if rule.looks_at == "map" else name for name, rule in RULES.items()]
    for name, rule in RULES.items():
        forms += [f"{name}:{estimate}:SIZE" for estimate in ESTIMATES] if rule.estimates else []
    return f"{', '.join(forms[:-1])} or {forms[-1]}"


def rule_from_text(text: str) -> SelectionConfig:
    """A rule by its name: one of ``rule_forms()``, such as ``contrast``, ``map:bytes`` or ``magnitude:sketch:32``.

    Raises:
        ValueError: it is none of them.
    """
    rule, *rest = text.split(":")
    values: dict[str, Any] = {"rule": rule}
    if rule in RULES and RULES[rule].looks_at == "map":
        values["map"], rest = (rest[0] if rest else None), rest[1:]
    elif len(rest) == 2:
        values["estimate"], values["estimate_size"] = rest
        rest = []
    try:
        if rest:
            raise ValueError(f"{':'.join(rest)} is too much")
        return SelectionConfig.model_validate(values)
    except ValueError:  # a ValidationError is one
        raise ValueError(f"a rule is {rule_forms()}; got {text!r}") from None


def rule_name(selection: SelectionConfig) -> str:
    """A rule as ``rule_from_text`` reads it; a temperature, which it does not read, follows behind."""
    name = selection.rule
    if selection.map is not None:
        name = f"{name}:{selection.map}"
    if selection.estimate != "none":
        name = f"{name}:{selection.estimate}:{selection.estimate_size}"
    return f"{name}, temperature {selection.temperature:g}" if selection.temperature else name
