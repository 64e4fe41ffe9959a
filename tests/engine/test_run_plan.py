from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import RunConfig, load_config
from engine.run_plan import MicroBatches, deepspeed_config, plan_run

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


def test_epochs_that_leave_examples_out_make_a_run_shorter_and_leave_other_durations_as_they_are() -> None:
    plan = plan_run(
        config("train.duration=8epochs", "eval.every=1epochs", "schedule.examples={rule: random, keep: 0.5}"), 60000, 1
    )
    assert plan.total_steps == 7 * 234 + 468
    assert (plan.steps_per_epoch, plan.eval_every) == (468, 468)


def test_a_run_of_more_steps_than_anyone_means_is_refused_with_what_it_comes_to() -> None:
    with pytest.raises(ValueError, match=r"train.duration 99999999999999epochs comes to 46,799,999,999,999,532 steps"):
        plan_run(config("train.duration=99999999999999epochs"), 60000, world_size=1)


@pytest.mark.parametrize(("world_size", "micro", "accumulation"), [(1, 32, 4), (2, 32, 2), (4, 32, 1), (2, 64, 1)])
def test_ranks_and_micro_batches_make_up_the_global_batch(world_size: int, micro: int, accumulation: int) -> None:
    plan = plan_run(config(f"train.micro_batch_size={micro}"), 60000, world_size)
    batches = plan.micro_batches
    assert (batches.size(9), batches.steps(9)) == (batches.size(49), batches.steps(49)) == (micro, accumulation)
    assert batches.size(9) * batches.steps(9) * world_size == 128


def test_without_a_micro_batch_size_a_rank_takes_its_share_at_once() -> None:
    assert plan_run(config(), 60000, 4).micro_batches.size(49) == 32


@given(
    share=st.integers(1, 600), in_pairs=st.booleans(), num_kept=st.integers(1, 600), most_tokens=st.integers(1, 50_000)
)
def test_a_micro_batch_is_the_largest_part_of_the_share_within_the_limit(
    share: int, in_pairs: bool, num_kept: int, most_tokens: int
) -> None:
    smallest = 2 if in_pairs else 1
    share *= smallest
    batches = MicroBatches(share, smallest, share, most_tokens)
    size = batches.size(num_kept)
    assert size * batches.steps(num_kept) == share
    allowed = [n for n in range(1, share + 1) if share % n == 0 and n % smallest == 0]
    within = [n for n in allowed if n * (num_kept + 1) <= most_tokens]
    assert size == max(within, default=smallest)


@given(share=st.integers(1, 600), most_tokens=st.integers(1, 50_000))
def test_micro_batches_never_shrink_as_the_keep_rate_falls(share: int, most_tokens: int) -> None:
    sizes = [MicroBatches(share, 1, share, most_tokens).size(num_kept) for num_kept in (196, 157, 117, 78, 38)]
    assert sizes == sorted(sizes)


def test_a_token_limit_makes_micro_batches_grow_at_a_constant_global_batch() -> None:
    plan = plan_run(config("train.tokens_per_micro_batch=800"), 60000, 2)
    cut = {
        num_kept: (plan.micro_batches.size(num_kept), plan.micro_batches.steps(num_kept)) for num_kept in (9, 19, 49)
    }
    assert cut == {9: (64, 1), 19: (32, 2), 49: (16, 4)}
    dictionary = deepspeed_config(config("train.tokens_per_micro_batch=800"), plan)
    assert (dictionary["train_micro_batch_size_per_gpu"], dictionary["gradient_accumulation_steps"]) == (16, 4)


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
        (["data.augment.mixup=1", "train.tokens_per_micro_batch=99"], 60000, 128, "mix pairs of neighbours"),
    ],
)
def test_a_run_that_cannot_be_divided_is_explained(
    overrides: list[str], num_samples: int, world_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan_run(config(*overrides), num_samples, world_size)


def test_the_deepspeed_dictionary_follows_the_configuration() -> None:
    run = config("train.micro_batch_size=16", "engine.zero_stage=2")
    dictionary = deepspeed_config(run, plan_run(run, 60000, 2))
    assert dictionary["train_batch_size"] == 128
    assert dictionary["train_micro_batch_size_per_gpu"] == 16
    assert dictionary["gradient_accumulation_steps"] == 4
    assert not dictionary["timers"]["throughput"]["enabled"]


def dictionary_of(*overrides: str, ranks: int = 2) -> dict[str, Any]:
    run = config("train.clip_grad_norm=0.5", *overrides)
    return deepspeed_config(run, plan_run(run, 60000, ranks))


def test_only_under_zero_3_deepspeed_clips() -> None:
    clipping = [dictionary_of(f"engine.zero_stage={stage}")["gradient_clipping"] for stage in range(4)]
    assert clipping == [0, 0, 0, 0.5]


def test_bf16_is_autocast_where_nothing_is_divided_and_deepspeeds_own_without_its_check_elsewhere() -> None:
    whole, *divided = (dictionary_of("engine.precision=bf16", f"engine.zero_stage={stage}") for stage in range(4))
    assert whole["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert "bf16" not in whole
    for dictionary in divided:
        assert dictionary["bf16"] == {"enabled": True, "check_grad_overflow": False}
        assert "torch_autocast" not in dictionary
    assert not {"bf16", "torch_autocast"} & set(dictionary_of())


@pytest.mark.parametrize(("precision", "elements"), [("fp32", 6_250_000), ("bf16", 12_500_000)])
@pytest.mark.parametrize("stage", [1, 2])
def test_zero_1_and_2_exchange_25_mb_at_a_time_beside_the_backward_pass(
    stage: int, precision: str, elements: int
) -> None:
    zero = (f"engine.zero_stage={stage}", f"engine.precision={precision}")
    buckets = {"reduce_bucket_size": elements, "allgather_bucket_size": elements}
    assert dictionary_of(*zero)["zero_optimization"] == {"stage": stage, "overlap_comm": True, **buckets}
    assert dictionary_of(*zero, ranks=1)["zero_optimization"] == {"stage": stage, "overlap_comm": False, **buckets}


def test_zero_0_and_3_keep_deepspeeds_settings() -> None:
    assert [dictionary_of(f"engine.zero_stage={stage}")["zero_optimization"] for stage in (0, 3)] == [
        {"stage": 0},
        {"stage": 3},
    ]
