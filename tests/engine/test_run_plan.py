from pathlib import Path

import pytest

from engine.config import RunConfig, load_config
from engine.run_plan import deepspeed_config, plan_run

FASHION = Path(__file__).resolve().parents[2] / "configs" / "fashion_mnist.yaml"


def config(*overrides: str) -> RunConfig:
    return load_config(FASHION, ["train.global_batch_size=128", *overrides])


def test_durations_become_steps() -> None:
    plan = plan_run(
        config(
            "train.duration=3epochs", "optim.warmup=6400samples", "checkpoint.every=0.5epochs", "eval.every=70steps"
        ),
        60000,
        world_size=2,
    )
    assert plan.steps_per_epoch == 60000 // 128
    assert plan.total_steps == 3 * 468
    assert (plan.warmup_steps, plan.checkpoint_every, plan.eval_every) == (50, 234, 70)


@pytest.mark.parametrize(("world_size", "micro", "accumulation"), [(1, 32, 4), (2, 32, 2), (4, 32, 1), (2, 64, 1)])
def test_ranks_and_micro_batches_make_up_the_global_batch(world_size: int, micro: int, accumulation: int) -> None:
    plan = plan_run(config(f"train.micro_batch_size={micro}"), 60000, world_size)
    assert (plan.micro_batch_size, plan.accumulation_steps) == (micro, accumulation)
    assert plan.micro_batch_size * plan.accumulation_steps * world_size == 128


def test_without_a_micro_batch_size_a_rank_takes_its_share_at_once() -> None:
    assert plan_run(config(), 60000, 4).micro_batch_size == 32


@pytest.mark.parametrize(
    ("overrides", "num_samples", "world_size", "message"),
    [
        ([], 60000, 3, "128 is not divided by 3 ranks"),
        (["train.micro_batch_size=48"], 60000, 2, "multiple of 96"),
        ([], 3, 4, "4 ranks cannot share 3 training samples"),
        ([], 100, 1, "does not fit 100 training samples"),
        (["train.duration=0.0001epochs"], 60000, 1, "at least one step"),
        (["optim.warmup=3epochs"], 60000, 1, "shorten it"),
        (["schedule.cooldown=4epochs"], 60000, 1, "cooldown"),
        (["eval.every=10samples"], 60000, 1, "less than one step"),
        (["data.augment.mixup=0.8"], 60000, 128, "there are 1 images in a micro batch; choose train.global_batch_size"),
        (["data.augment.cutmix=1", "train.micro_batch_size=1"], 60000, 2, "mix pairs of neighbours"),
    ],
)
def test_a_run_that_cannot_be_divided_is_explained(
    overrides: list[str], num_samples: int, world_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan_run(config(*overrides), num_samples, world_size)


def test_the_deepspeed_dictionary_follows_the_configuration() -> None:
    run = config(
        "train.micro_batch_size=16", "engine.zero_stage=2", "engine.precision=bf16", "train.clip_grad_norm=0.5"
    )
    dictionary = deepspeed_config(run, plan_run(run, 60000, 2))
    assert dictionary["train_batch_size"] == 128
    assert dictionary["train_micro_batch_size_per_gpu"] == 16
    assert dictionary["gradient_accumulation_steps"] == 4
    assert dictionary["gradient_clipping"] == 0.5
    assert dictionary["zero_optimization"] == {"stage": 2}
    assert dictionary["bf16"] == {"enabled": True}
