import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from finished_run import write_finished_run
from PIL import Image

from benchmarks.shared.photographs import photograph
from engine.evaluation.trained import load_trained, validation_images, validation_map_scores
from pipeline.selection.magnitude import EmbeddingSnapshot
from pipeline.selection.rules import contrast_scores, top_k
from tools.agreement.__main__ import main
from tools.agreement.compare import Scoring, compare, overlap, rank_correlation, rules_to_compare
from tools.agreement.maps import compare_maps
from tools.shards.maps.score import MapJob, score_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finished_run(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def snapshot() -> EmbeddingSnapshot:
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((192, 768)).astype(np.float32)
    return EmbeddingSnapshot.of(0, kernel, np.zeros(192), None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(photograph(i)).resize((224, 224))) for i in range(8)])


def test_overlap_is_the_share_of_ids_in_common() -> None:
    assert overlap(np.array([[0, 1, 2, 3], [4, 5, 6, 7]]), np.array([[2, 3, 8, 9], [4, 5, 6, 7]])) == 0.75


def test_rank_correlation_sees_order_and_nothing_else() -> None:
    table = np.random.default_rng(0).standard_normal((3, 50))
    assert rank_correlation(table, np.exp(3 * table)) == pytest.approx(1)
    assert rank_correlation(table, -table) == pytest.approx(-1)
    assert abs(rank_correlation(table, np.random.default_rng(1).standard_normal((3, 50)))) < 0.3


def test_the_exact_rule_agrees_with_itself_and_a_random_one_by_chance(
    snapshot: EmbeddingSnapshot, photos: np.ndarray
) -> None:
    rules = {rule.name: rule for rule in compare(snapshot, photos, 16)}
    assert set(rules["magnitude"].overlap.values()) == {1.0}
    assert rules["magnitude"].rank_correlation == pytest.approx(1)
    assert rules["random"].overlap["0.4"] == pytest.approx(78 / 196, abs=0.08)
    assert rules["grid"].rank_correlation is None


def test_a_larger_estimate_agrees_better(snapshot: EmbeddingSnapshot, photos: np.ndarray) -> None:
    rules = {rule.name: rule for rule in compare(snapshot, photos, 16)}
    assert rules["magnitude, sketch of 48"].overlap["0.2"] > rules["magnitude, sketch of 10"].overlap["0.2"]
    assert rules["magnitude, sketch of 19"].multiply_adds == 196 * 19 * 768


def test_contrast_is_scored_as_in_the_pipeline(snapshot: EmbeddingSnapshot, photos: np.ndarray) -> None:
    scoring = Scoring(rules_to_compare(snapshot)["contrast"], snapshot, 14)
    scores = scoring.scores(photos, np.zeros((8, 196)))
    assert scores is not None
    patch = photos[3, 32:48, 16:32].reshape(-1, 3) / 255
    assert scores[3, 2 * 14 + 1] == pytest.approx(np.sqrt(((patch - patch.mean(axis=0)) ** 2).mean()), abs=1e-4)


def test_validation_images_are_whole_and_as_many_as_asked_for(run: Path) -> None:
    config = load_trained(run).config
    images = validation_images(config, 20)
    assert images.shape == (20, 16, 16, 3)
    np.testing.assert_array_equal(images, validation_images(config, 50)[:20])


def test_the_command_prints_a_table_and_writes_the_raw_result(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--json", str(tmp_path / "raw.json"), "--png", str(tmp_path / "picture.png")]
    assert main([str(run), "--images", "30", *files]) == 0
    assert "magnitude, sketch of 8" in capsys.readouterr().out
    result = json.loads((tmp_path / "raw.json").read_text())
    assert result["num_images"] == 30
    assert {"contrast", "grid", "random", "magnitude"} <= {rule["name"] for rule in result["rules"]}
    assert Image.open(tmp_path / "picture.png").width > 500


@pytest.mark.parametrize("missing", ["config.yaml", "model"])
def test_a_folder_that_is_no_finished_run_is_refused(
    missing: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if missing == "model":
        (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    assert main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_score_maps_stand_beside_the_rules_that_look_at_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = Path(shutil.copytree(run.parent / "shards", tmp_path / "shards"))
    place = f"data.val={shards}"
    score_folder(shards, MapJob("contrast"), split="val")
    assert main([str(run), "--images", "30", "--set", place, "--json", str(tmp_path / "raw.json")]) == 0
    assert "map:contrast, magnitude" in capsys.readouterr().out
    told = {one["rule"]: one for one in json.loads((tmp_path / "raw.json").read_text())["maps"]}
    assert set(told) == {"contrast", "magnitude"}
    config = load_trained(run, [place]).config
    images, scores = validation_images(config, 30), validation_map_scores(config, 30, "contrast")
    kept, exact = (top_k(table, 6) for table in (scores, contrast_scores(list(images), 4)))
    assert told["contrast"]["overlap"]["0.4"] == pytest.approx(overlap(exact, kept))


def test_a_map_of_the_rules_own_scores_agrees_with_it(snapshot: EmbeddingSnapshot, photos: np.ndarray) -> None:
    found = compare_maps(snapshot, photos, 16, {"same": contrast_scores(list(photos), 14)})
    (same,) = [one for one in found if one.rule == "contrast"]
    assert set(same.overlap.values()) == {1.0}
    assert same.rank_correlation == pytest.approx(1)
    assert compare_maps(snapshot, photos, 16, {}) == []
