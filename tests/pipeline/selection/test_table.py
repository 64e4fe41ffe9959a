"""An entry in the table of rules is all that a rule needs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pixels import full_images, train_planner

from engine.evaluation.inference import rule_forms
from pipeline.config import DataConfig
from pipeline.graph.route import route_of, why_not_select_first
from pipeline.loader import PatchLoader
from pipeline.plan.schedule import ScheduleConfig
from pipeline.selection.config import SelectionConfig, rule_from_text, rule_name, select
from pipeline.selection.rules import RULES, Rule
from pipeline.shards.index import open_index
from pipeline.train_plans import TrainPlans


def edges(images: Sequence[np.ndarray], grid_size: int) -> np.ndarray:
    """The mean difference of neighbours in a row: float32 [B, N]."""
    steps = np.abs(np.diff(np.stack(images).astype(np.float32), axis=2, append=0)).mean(axis=3)
    side = steps.shape[1] // grid_size
    return steps.reshape(len(images), grid_size, side, grid_size, side).mean(axis=(2, 4)).reshape(len(images), -1)


@pytest.fixture
def with_edges(monkeypatch: pytest.MonkeyPatch) -> SelectionConfig:
    monkeypatch.setitem(RULES, "edges", Rule("patches with strong edges", "pixels", scores=edges))
    return SelectionConfig(rule="edges")


def test_the_loader_keeps_the_patches_of_a_rule_that_it_has_never_heard_of(
    photo_shards: Path, with_edges: SelectionConfig
) -> None:
    index = open_index(photo_shards, "train")
    data = DataConfig(train=photo_shards, val=photo_shards, num_classes=5, image_size=48, patch_size=8)
    half = ScheduleConfig(kind="constant", keep_rate=0.5)
    planner = train_planner(index, data, selection=with_edges, schedule=half, global_batch_size=16)
    plans = TrainPlans(planner, first_step=0, stop_step=2, micro_batch_size=16)
    with PatchLoader(planner, plans, batch_size=16, num_threads=1) as loader:
        for batch in loader:
            images = full_images(index, batch.plan, data, SelectionConfig(rule="contrast"), decoded=False)
            scores = edges(list(images), data.grid_size)
            expected = select(scores, batch.plan.noise, batch.plan.stage.num_kept, data.grid_size, with_edges)
            share = np.mean(
                [len(set(a) & set(b)) / len(a) for a, b in zip(batch.ids_keep.tolist(), expected, strict=True)]
            )
            assert share > 0.97, "the two routes differ by a level here and there"


def test_its_route_its_name_and_its_settings_follow_from_the_table(with_edges: SelectionConfig, tmp_path: Path) -> None:
    data = DataConfig(train=tmp_path, val=tmp_path, num_classes=2)
    assert route_of(data, with_edges) == "resample_first"
    assert why_not_select_first(data, with_edges) == "selection.rule edges looks at whole images"
    assert "edges" in rule_forms()
    assert rule_name(rule_from_text("edges")) == "edges"
    assert SelectionConfig(rule="edges", temperature=0.5).noise_columns(196) == 196
    assert with_edges.noise_columns(196) == 0
    with pytest.raises(ValueError, match="is of the rule 'magnitude'; rule 'edges' has none"):
        SelectionConfig(rule="edges", estimate="rows")


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'random', 'grid', 'contrast', 'magnitude' or 'map'"):
        SelectionConfig(rule="edges")


def test_every_rule_says_how_it_chooses() -> None:
    for name, rule in RULES.items():
        ways = {"plan": rule.choose, "pixels": rule.scores, "model": rule.scorer}
        found = [looks for looks, way in ways.items() if way is not None]
        assert found == ([] if rule.looks_at == "map" else [rule.looks_at]), name
        assert rule.looks_at_images == (rule.looks_at in ("pixels", "model")), name


def test_a_rule_that_looks_at_something_unheard_of_is_an_error() -> None:
    rule = Rule("patches that sound well", "sound")  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="sound"):
        _ = rule.looks_at_images


def test_the_rule_map_needs_the_name_of_a_map_and_the_others_have_none() -> None:
    with pytest.raises(
        ValueError, match=r"rule 'map' needs selection\.map.*make some with: python -m tools\.shards score"
    ):
        SelectionConfig(rule="map")
    with pytest.raises(ValueError, match="map 'bytes' is of the rule 'map'; rule 'contrast' has none"):
        SelectionConfig(rule="contrast", map="bytes")
    with pytest.raises(ValueError, match="'a b' is no name of a score map"):
        SelectionConfig(rule="map", map="a b")
    selection = SelectionConfig(rule="map", map="bytes")
    assert (selection.noise_columns(196), selection.of_rule.is_scored) == (0, True)
    assert SelectionConfig(rule="map", map="bytes", temperature=0.1).noise_columns(196) == 196


def test_the_rule_map_is_chosen_before_images_are_made(tmp_path: Path) -> None:
    data = DataConfig(train=tmp_path, val=tmp_path, num_classes=2)
    assert route_of(data, SelectionConfig(rule="map", map="bytes")) == "select_first"


@pytest.mark.parametrize("text", ["map:bytes", "map:my-own_2"])
def test_a_map_is_part_of_the_rules_name(text: str) -> None:
    assert rule_name(rule_from_text(text)) == text
    assert rule_from_text(text).map == text.partition(":")[2]


@pytest.mark.parametrize("text", ["map", "map:", "map:a:b", "map:a.b", "contrast:bytes"])
def test_a_map_without_a_name_or_with_too_much_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"map:NAME.*; got"):
        rule_from_text(text)
