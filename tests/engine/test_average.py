from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from engine.average import AVERAGE_FILE, WeightAverage, resume_average, trained_weights
from engine.checkpoints.state_files import write_state

DECAY = 0.9


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def train_a_step(trained: nn.Module) -> None:
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(torch.randn_like(parameter))


def values(of: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in of.named_parameters()}


def test_the_average_is_the_slow_obvious_formula() -> None:
    trained = model()
    average, expected = WeightAverage(trained, DECAY), values(trained)
    for _ in range(5):
        train_a_step(trained)
        average.update(trained_weights(engine_of(trained)))
        for name, weight in values(trained).items():
            expected[name] = DECAY * expected[name] + (1 - DECAY) * weight
    for name, weight in average.weights().items():
        torch.testing.assert_close(weight, expected[name])


def engine_of(module: nn.Module) -> Any:
    """As much of a DeepSpeed engine as the average looks at."""
    return SimpleNamespace(module=module, optimizer=torch.optim.AdamW(module.parameters()))


def test_training_does_not_reach_the_averages_own_model() -> None:
    trained = model()
    average, before = WeightAverage(trained, DECAY), values(trained)
    train_a_step(trained)
    for name, weight in average.weights().items():
        assert torch.equal(weight, before[name])
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_the_average_of_bf16_weights_is_float32_and_evaluated_under_autocast() -> None:
    trained = model()
    average = WeightAverage(trained, 0.999)
    trained.bfloat16()
    for _ in range(3):
        train_a_step(trained)
        average.update(list(trained.parameters()))
    assert {weight.dtype for weight in average.weights().values()} == {torch.float32}
    assert average.in_precision("fp32") is average.model
    evaluated, inputs = average.in_precision("bf16"), torch.randn(5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        expected = average.model(inputs)
    assert expected.dtype == torch.bfloat16
    assert torch.equal(evaluated(inputs), expected)
    assert not evaluated.training


def test_a_resumed_average_is_the_one_that_was_saved(tmp_path: Path) -> None:
    trained = model()
    average = WeightAverage(trained, DECAY)
    train_a_step(trained)
    average.update(list(trained.parameters()))
    write_state(tmp_path / AVERAGE_FILE, average.state())
    again = WeightAverage(model(seed=1), DECAY)
    assert resume_average(again, engine_of(trained), tmp_path) == []
    for name, weight in again.weights().items():
        assert torch.equal(weight, average.weights()[name])


def test_an_average_that_was_not_kept_starts_from_the_loaded_weights_and_says_so(tmp_path: Path) -> None:
    trained = model()
    average = WeightAverage(model(seed=1), DECAY)
    [note] = resume_average(average, engine_of(trained), tmp_path)
    assert "holds no average" in note
    for name, weight in average.weights().items():
        assert torch.equal(weight, values(trained)[name])
