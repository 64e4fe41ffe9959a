import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from finished_run import write_finished_run
from PIL import Image

from benchmarks.shared.photographs import photograph
from engine.config import dump_config, load_config
from engine.evaluation.file_maps import FILE_MAPS, file_scores
from engine.evaluation.inference import Classifier
from engine.evaluation.trained import load_trained, validation_images
from engine.snapshots import take_snapshot
from pipeline.batch import Batch
from pipeline.loader import PatchLoader, validation_plans
from pipeline.plan.step import ValidationPlanner
from pipeline.selection.config import SelectionConfig, rule_from_text
from pipeline.selection.snapshots import fixed_board
from pipeline.shards.index import open_index

RULES = ["random", "grid", "contrast", "magnitude", "magnitude:sketch:6", "magnitude:rows:8"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finished_run(tmp_path_factory.mktemp("toy"), ["seed=7"])


@pytest.fixture(scope="module")
def classifier(run: Path) -> Classifier:
    return Classifier.load(run)


@pytest.fixture(scope="module")
def images(run: Path) -> torch.Tensor:
    return torch.from_numpy(validation_images(load_trained(run).config, 50))


def validation_batches(run: Path, selection: SelectionConfig, keep_rate: float) -> Iterator[Batch]:
    """As ``evaluate`` reads them."""
    trained = load_trained(run)
    config = trained.config
    index = open_index(config.data.val, "val")
    planner = ValidationPlanner(index, config.data, selection, keep_rate, 16, config.seed)
    with PatchLoader(
        planner,
        validation_plans(planner),
        batch_size=16,
        num_threads=1,
        snapshots=fixed_board(take_snapshot(trained.model, 0)) if selection.needs_model else None,
    ) as loader:
        yield from loader


@pytest.mark.parametrize("keep_rate", [0.5, 1.0])
@pytest.mark.parametrize("rule", [*RULES, SelectionConfig(rule="contrast", temperature=0.1)], ids=str)
def test_images_get_the_logits_that_validation_gives_them(
    rule: str | SelectionConfig, keep_rate: float, run: Path, classifier: Classifier, images: torch.Tensor
) -> None:
    selection = rule_from_text(rule) if isinstance(rule, str) else rule
    num_seen = 0
    for batch in validation_batches(run, selection, keep_rate):
        batch_images = images[num_seen : num_seen + 16]
        count = int(batch.counted.sum())
        assert count == len(batch_images)
        ids = classifier.select(batch_images, keep_rate, rule, first_row=num_seen)
        assert torch.equal(ids, batch.ids_keep[:count])
        logits = classifier.logits(batch_images, keep_rate, rule, first_row=num_seen)
        torch.testing.assert_close(logits, classifier.logits(batch)[:count])
        num_seen += count
    assert num_seen == 50


SIZES = [(24, 4), (8, 4), (16, 2), (24, 8)]


@pytest.mark.parametrize(("image_size", "patch_size"), SIZES)
@pytest.mark.parametrize("rule", ["random", "magnitude"])
def test_at_other_sizes_images_get_the_answers_that_shards_get(
    rule: str, image_size: int, patch_size: int, run: Path, classifier: Classifier
) -> None:
    at = {"image_size": image_size, "patch_size": patch_size}
    trained = load_trained(run)
    data = trained.config.data.at(**at)
    images = torch.from_numpy(validation_images(trained.config.model_copy(update={"data": data}), 50))
    index = open_index(data.val, "val")
    answers = list(classifier.answers(index, 0.5, rule_from_text(rule), batch_size=16, **at))
    ids = np.concatenate([some.sample_ids for some in answers])
    logits = torch.cat([some.logits for some in answers])
    assert ids.tolist() == list(range(50))
    torch.testing.assert_close(classifier.logits(images, 0.5, rule, **at), logits, rtol=1e-4, atol=1e-4)
    grid = image_size // patch_size
    assert classifier.select(images, 1.0, rule, **at).tolist() == [list(range(grid**2))] * 50
    with pytest.raises(ValueError, match=f"patch of {patch_size} pixels does not divide an image of {image_size + 1}"):
        classifier.logits(images, image_size=image_size + 1, patch_size=patch_size)


def test_files_are_prepared_at_other_sizes_too(classifier: Classifier) -> None:
    picture = Image.fromarray(photograph(3, 60, 40))
    assert classifier.preprocess([picture]).shape == (1, 16, 16, 3)
    larger = classifier.preprocess([picture], image_size=24)
    assert larger.shape == (1, 24, 24, 3)
    with pytest.raises(ValueError, match=r"images are uint8 \[B, 16, 16, 3\].*got torch.uint8 \[1, 24"):
        classifier.logits(larger)


def test_rules_and_seeds_choose_other_patches(classifier: Classifier, images: torch.Tensor) -> None:
    chosen = [classifier.select(images, 0.5, rule).tolist() for rule in RULES]
    assert all(a != b for i, a in enumerate(chosen) for b in chosen[:i])
    assert classifier.select(images, 0.5, "random", seed=8).tolist() != chosen[0]
    assert classifier.select(images, 0.5, "random", seed=7).tolist() == chosen[0]


def test_the_run_knows_its_rule_and_an_export_must_be_told(
    run: Path, classifier: Classifier, images: torch.Tensor
) -> None:
    export = Classifier.load(run / "model")
    assert torch.equal(export.logits(images), classifier.logits(images))
    with pytest.raises(ValueError, match="name one, random, grid"):
        export.logits(images, 0.5)
    with_rule = Classifier.load(run / "model", rule="contrast")
    assert torch.equal(with_rule.logits(images, 0.5), classifier.logits(images, 0.5))
    assert not classifier.logits(images, 0.5).requires_grad


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(2, 16, 16, 3),
        torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
        torch.zeros(16, 16, 3, dtype=torch.uint8),
        torch.zeros(2, 20, 20, 3, dtype=torch.uint8),
        torch.zeros(0, 16, 16, 3, dtype=torch.uint8),
        np.zeros((2, 16, 16, 3), dtype=np.uint8),
    ],
    ids=["float", "channels first", "one image", "another size", "no image", "an array"],
)
def test_other_images_are_refused(wrong: torch.Tensor, classifier: Classifier) -> None:
    with pytest.raises(ValueError, match=r"images are .*got"):
        classifier.logits(wrong)


def test_a_batch_is_not_selected_again(run: Path, classifier: Classifier) -> None:
    batch = next(validation_batches(run, SelectionConfig(rule="grid"), 0.5))
    with pytest.raises(ValueError, match="leave out keep_rate"):
        classifier.logits(batch, 0.5)


@pytest.mark.parametrize("rate", [0.0, 0.01, 1.5])
def test_a_rate_that_keeps_nothing_or_too_much_is_refused(
    rate: float, classifier: Classifier, images: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match="keep rate"):
        classifier.logits(images, rate)


def test_a_folder_without_a_classifier_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run folder"):
        Classifier.load(tmp_path)
    config = load_config(
        run / "config.yaml", ["task=pretrain", "schedule={kind: constant, keep_rate: 0.4}", "eval.keep_rates=[0.4]"]
    )
    (tmp_path / "config.yaml").write_text(dump_config(config))
    (tmp_path / "model").symlink_to(run / "model")
    with pytest.raises(ValueError, match="no trained classifier"):
        Classifier.load(tmp_path)


def test_paths_may_be_text(run: Path, images: torch.Tensor, classifier: Classifier) -> None:
    for folder in (str(run), str(run / "model")):
        assert torch.equal(Classifier.load(folder).logits(images), classifier.logits(images))
    assert load_trained(str(run)).folder == run


def test_a_folder_that_is_not_there_or_not_whole_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"there is no folder nowhere/model; give a run's folder, such as .* or an exp"
    ):
        Classifier.load("nowhere/model")
    with pytest.raises(ValueError, match=r"nowhere is no run folder: it is not there; give one"):
        load_trained("nowhere")
    with pytest.raises(ValueError, match=rf"there is no folder {run}/model/config\.json; "):
        Classifier.load(str(run / "model" / "config.json"))
    with pytest.raises(ValueError, match=r"no run folder and no exported model: it holds neither config\.yaml nor mod"):
        Classifier.load(tmp_path)
    for name in ("config.json", "model.safetensors"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_bytes((run / "model" / name).read_bytes())
        lost = {"config.json", "model.safetensors"} - {name}
        with pytest.raises(ValueError, match=f"is not whole: it holds no {lost.pop()}; copy it again"):
            Classifier.load(folder)


def test_an_export_is_loaded_with_the_preprocessing_of_its_run(run: Path, classifier: Classifier) -> None:
    export = Classifier.load(run / "model")
    assert export.image_size == classifier.image_size
    assert (export.model.mean, export.model.std) == (classifier.model.mean, classifier.model.std)


# Score maps, which pixels do not tell


def test_score_maps_choose_what_their_scores_say(classifier: Classifier, images: torch.Tensor) -> None:
    scores = np.random.default_rng(0).random((len(images), 16)).astype(np.float32)
    ids = classifier.select(images, 0.5, "map:mine", map_scores=scores)
    assert ids.tolist() == [sorted(np.argsort(-row, kind="stable")[: ids.shape[1]].tolist()) for row in scores]
    assert classifier.logits(images, 0.5, "map:mine", map_scores=scores).shape == (len(images), 4)


def test_score_maps_are_asked_for_and_refused_by_name(classifier: Classifier, images: torch.Tensor) -> None:
    scores = np.zeros((len(images), 16), np.float32)
    with pytest.raises(ValueError, match=r"rule map:mine looks at score maps.*give map_scores"):
        classifier.select(images, 0.5, "map:mine")
    with pytest.raises(ValueError, match="rule contrast looks at no score maps; leave out map_scores"):
        classifier.select(images, 0.5, "contrast", map_scores=scores)
    with pytest.raises(ValueError, match=r"map_scores are float32 \[50, 16\], a score a patch; got \[50, 15\]"):
        classifier.select(images, 0.5, "map:mine", map_scores=scores[:, 1:])


def addressable(number: int) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(photograph(number, 96, 64)).save(sink, "JPEG", restart_marker_blocks=1, optimize=True)
    return sink.getvalue()


@pytest.mark.parametrize("kind", FILE_MAPS)
def test_files_that_lie_in_no_shard_are_scored_on_the_spot(kind: str) -> None:
    files = [addressable(number) for number in range(3)]
    scores = file_scores(files, kind, 4, map_size=8)
    for file, row in zip(files, scores, strict=True):
        cells = FILE_MAPS[kind](file, 8).astype(float).reshape(4, 2, 4, 2)
        np.testing.assert_allclose(row, cells.mean(axis=(1, 3)).reshape(-1) / 255, atol=1e-6)


def test_kinds_that_need_a_model_are_not_made_of_files() -> None:
    with pytest.raises(ValueError, match="of the kinds bytes and contrast; got 'attention'"):
        file_scores([], "attention", 4)
