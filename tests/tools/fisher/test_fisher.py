"""The Fisher information of a trained classifier."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from finished_run import write_finished_run
from torch import Tensor

from benchmarks.shared.shell import ROOT
from benchmarks.shared.toy_data import NUM_TRAIN
from engine.config import load_config
from engine.evaluation.trained import load_trained
from engine.prepare import build_task_model
from engine.run.anchor import read_held
from engine.run.fisher import read_fisher
from pipeline.shards.data_sets import open_train
from tools.fisher.__main__ import main
from tools.fisher.estimate import fisher_diagonal, some_of, training_batches


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finished_run(tmp_path_factory.mktemp("toy"))


def test_it_is_the_mean_square_of_each_images_gradient(run: Path) -> None:
    trained = load_trained(run)
    batches = list(training_batches(trained.config, 5))
    found, num_images = fisher_diagonal(trained.model, batches, seed=3)
    model = trained.model
    expected: dict[str, Tensor] = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    drawn = torch.Generator().manual_seed(3)
    [batch] = batches
    for patches, ids in zip(batch.patches, batch.ids_keep, strict=True):
        chances = model(patches[None], ids[None]).softmax(1)[0]
        label = int(torch.multinomial(chances.detach(), 1, generator=drawn))
        model.zero_grad()
        chances[label].log().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            expected[name] += parameter.grad.square() / 5
    assert num_images == 5
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-9)


def test_the_classifiers_bias_has_the_variance_of_its_chances() -> None:
    """Of the bias the Fisher information is known: p (1 - p), the mean over images."""

    class Biased(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.tensor([0.0, 1.0, 2.0]))

        def forward(self, patches: Tensor, ids: Tensor) -> Tensor:
            return self.bias[None]

    class Rows:
        patches = ids_keep = torch.zeros(16_000, 1)
        plan = type("Plan", (), {"counted": np.ones(16_000, dtype=bool)})

    model = Biased()
    found, _ = fisher_diagonal(model, [Rows()], seed=0)  # type: ignore[arg-type, list-item]
    chances = F.softmax(model.bias.detach(), dim=0)
    torch.testing.assert_close(found["bias"], chances * (1 - chances), rtol=0.1, atol=0)


def test_images_are_taken_at_even_distances_over_the_whole_set(run: Path) -> None:
    config = load_config(run / "config.yaml")
    index = open_train(config.data)
    some = some_of(index, 40)
    assert some.num_samples == 40
    assert some.sample_ids(np.arange(40)).tolist() == list(range(0, NUM_TRAIN, 5))
    assert some_of(index, NUM_TRAIN) is index
    batches = list(training_batches(config, 40))
    assert np.concatenate([one.plan.sample_ids[one.plan.counted] for one in batches]).tolist() == list(
        range(0, NUM_TRAIN, 5)
    )


def test_of_several_sources_images_are_taken_from_all(run: Path) -> None:
    shards = run.parent / "shards"
    sources = ", ".join(f"{{name: {name}, folder: {shards}, repeat: 1}}" for name in ("first", "second"))
    config = load_config(run / "config.yaml", [f"data.train=[{sources}]"])
    [batch] = training_batches(config, 8)
    assert batch.plan.sample_ids.tolist() == list(range(0, 2 * NUM_TRAIN, 50))
    [whole] = training_batches(load_config(run / "config.yaml"), 4)
    assert torch.equal(batch.patches, whole.patches.repeat(2, 1, 1))


def test_the_file_that_is_written_weighs_an_anchor(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "old.safetensors"
    assert main([str(run), "--out", str(out), "--samples", "8"]) == 0
    assert "over 8 images, from " in capsys.readouterr().out
    start = f"model.pretrained=local-dir:{run / 'model'}"
    config = load_config(run / "config.yaml", [start, f"train.anchor={{strength: 10, fisher: {out}}}"])
    held = read_held(config, build_task_model(config))
    assert held is not None
    assert all(torch.equal(held.factors[name], 10 * value) for name, value in read_fisher(out).diagonal.items())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--samples", "0"], "--samples is at least 1, got 0"),
        (["--out", "fisher.pt"], "--out is a .safetensors file in a folder that is there, got fisher.pt"),
        (["--set", "train.loss=binary_cross_entropy"], "was trained with train.loss binary_cross_entropy"),
    ],
)
def test_what_has_no_fisher_information_here_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main([str(run), "--out", str(tmp_path / "f.safetensors"), *arguments]) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main([str(ROOT / "docs"), "--out", str(tmp_path / "f.safetensors")]) == 2
