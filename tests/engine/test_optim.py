import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from patch_models import make_pair

from engine.models.build import build_model
from engine.models.patch_embed import PatchModel
from engine.optim import build_optimizer, learning_rate, param_groups, set_learning_rate


def small_vit() -> PatchModel:
    return build_model(
        "vit_tiny_patch16_224",
        image_size=16,
        patch_size=4,
        num_classes=5,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        options={"embed_dim": 24, "depth": 2, "num_heads": 2, "reg_tokens": 1, "init_values": 0.1},
    )


def by_name(model: PatchModel, groups: list[dict]) -> dict[str, tuple[float, float]]:
    """Each parameter's weight decay and learning-rate factor."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    settings = [(p, g["weight_decay"], g["lr_scale"]) for g in groups for p in g["params"]]
    assert len(settings) == len(names), "each parameter must be in exactly one group"
    return {names[id(p)]: (decay, scale) for p, decay, scale in settings}


DECAYED = {"patch_embed.proj.weight", "head.weight"} | {
    f"blocks.{i}.{layer}.weight" for i in range(2) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
}


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_only_weight_matrices_decay(layer_decay: float | None) -> None:
    model = small_vit()
    settings = by_name(model, param_groups(model, weight_decay=0.1, layer_decay=layer_decay))
    assert {name for name, (decay, _) in settings.items() if decay} == DECAYED
    assert {decay for decay, _ in settings.values()} == {0.0, 0.1}
    for name in ("pos_embed", "cls_token", "reg_token", "norm.weight", "blocks.0.ls1.gamma", "head.bias"):
        assert settings[name][0] == 0.0


def test_without_layer_decay_every_layer_learns_at_the_same_rate() -> None:
    model = small_vit()
    assert {scale for _, scale in by_name(model, param_groups(model, weight_decay=0.1)).values()} == {1.0}


def test_with_layer_decay_the_rate_halves_with_each_layer_below_the_head() -> None:
    model = small_vit()
    settings = by_name(model, param_groups(model, weight_decay=0.1, layer_decay=0.5))
    expected = {
        "head.weight": 1.0,
        "norm.weight": 0.5,
        "blocks.1.attn.qkv.weight": 0.5,
        "blocks.0.mlp.fc1.bias": 0.25,
        "patch_embed.proj.weight": 0.125,
        "pos_embed": 0.125,
        "cls_token": 0.125,
        "reg_token": 0.125,
    }
    assert {name: settings[name][1] for name in expected} == expected


@pytest.mark.parametrize(
    "kind", ["distilled", "BEiT, as SimMIM fine-tunes it", "BEiT, all kinds of positions", "DINOv3", "learned rotary"]
)
def test_every_family_decays_its_matrices_and_learns_slower_below(kind: str) -> None:
    model, _ = make_pair(kind)
    settings = by_name(model, param_groups(model, weight_decay=0.1, layer_decay=0.5))
    places = ("pos_embed", "cls_token", "reg_token", "dist_token", "relative_position_bias_table", "rope.freqs")
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim > 1 and not name.endswith(places)
        assert settings[name][0] == (0.1 if is_matrix else 0.0), name
        if name.startswith("blocks."):  # of three
            assert settings[name][1] == 0.5 ** (3 - int(name.split(".")[1])), name
        if name.startswith(("cls_token", "reg_token", "dist_token", "pos_embed", "patch_embed.", "rel_pos_bias.")):
            assert settings[name][1] == 0.5**4, name
    assert {settings[name][1] for name in settings if name.startswith("head")} == {1.0}


@pytest.mark.parametrize("bad", [{"weight_decay": -1.0}, {"layer_decay": 0.0}, {"layer_decay": 1.5}])
def test_impossible_decays_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        param_groups(small_vit(), **({"weight_decay": 0.1} | bad))


runs = st.integers(2, 400).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total - 1)))
rates = st.floats(1e-6, 1.0)


def whole_run(total: int, warmup: int, peak: float, start: float, final: float) -> list[float]:
    return [
        learning_rate(step, peak=peak, total_steps=total, warmup_steps=warmup, warmup_start=start, final=final)
        for step in range(total)
    ]


@given(run=runs, peak=rates, start=st.floats(0, 0.9), final=st.floats(0, 0.9))
def test_the_rate_rises_to_the_peak_and_then_falls_within_its_bounds(
    run: tuple[int, int], peak: float, start: float, final: float
) -> None:
    total, warmup = run
    start, final = start * peak, final * peak
    lrs = whole_run(total, warmup, peak, start, final)
    assert lrs[warmup] == pytest.approx(peak)
    assert all(a < b for a, b in pairwise(lrs[: warmup + 1]))
    assert all(a > b for a, b in pairwise(lrs[warmup:]))
    assert all(start < lr < peak for lr in lrs[:warmup])
    assert all(final < lr <= peak * (1 + 1e-12) for lr in lrs[warmup:])


@given(run=runs, peak=rates)
def test_no_step_jumps_by_more_than_the_steepest_slope(run: tuple[int, int], peak: float) -> None:
    total, warmup = run
    lrs = whole_run(total, warmup, peak, 0.0, 0.0)
    steepest = peak * max(1 / (warmup + 1), math.pi / 2 / (total - warmup))
    assert all(abs(b - a) <= steepest * (1 + 1e-9) for a, b in pairwise(lrs))
    assert lrs[0] > 0
    assert lrs[-1] <= steepest


def test_known_points_of_a_run() -> None:
    lrs = whole_run(total=104, warmup=4, peak=1.0, start=0.0, final=0.1)
    assert lrs[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert lrs[54] == pytest.approx(0.55)  # half of the cosine: the mean of peak and final
    assert lrs[103] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize(("step", "total", "warmup"), [(-1, 10, 2), (10, 10, 2), (0, 10, 10), (0, 10, -1)])
def test_steps_outside_the_run_are_refused(step: int, total: int, warmup: int) -> None:
    with pytest.raises(ValueError, match="run"):
        learning_rate(step, peak=1.0, total_steps=total, warmup_steps=warmup)


def test_the_optimizer_takes_each_groups_rate_and_keeps_to_it() -> None:
    model = small_vit()
    groups = param_groups(model, weight_decay=0.1, layer_decay=0.5)
    optimizer = build_optimizer(groups, lr=0.4, betas=(0.9, 0.95), eps=1e-8)
    assert {(g["lr"], g["lr_scale"]) for g in optimizer.param_groups} == {(0.4 * s, s) for s in (0.125, 0.25, 0.5, 1.0)}
    set_learning_rate(optimizer, 0.1)
    assert all(group["lr"] == 0.1 * group["lr_scale"] for group in optimizer.param_groups)
    assert all("lr" not in group for group in groups)


def test_training_on_a_cpu_repeats_bit_for_bit() -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        model = small_vit()
        optimizer = build_optimizer(param_groups(model, weight_decay=0.1), lr=0.01, betas=(0.9, 0.999), eps=1e-8)
        patches = torch.randint(0, 256, (4, 6, 48), dtype=torch.uint8)
        for _ in range(3):
            model(patches, torch.arange(6).repeat(4, 1)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append({name: value.clone() for name, value in model.state_dict().items()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_fused_optimizer_takes_the_steps_of_the_plain_loop(num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    ends = []
    for fused in (True, True, False):
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(size)) for size in (3, 1000, 100_003)]
        groups = [{"params": parameters, "weight_decay": 0.1, "lr_scale": 1.0}]
        optimizer = build_optimizer(groups, lr=0.01, betas=(0.9, 0.999), eps=1e-8)
        optimizer.param_groups[0]["fused"] = fused
        for _ in range(4):
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        ends.append(parameters)
    for fused, again, plain in zip(*ends, strict=True):
        assert torch.equal(fused, again)
        torch.testing.assert_close(fused, plain)
