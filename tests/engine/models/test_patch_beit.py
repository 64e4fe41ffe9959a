"""BEiT's bias for kept patches, and its gradient, against a table that is looked up pair by pair."""

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from patch_models import MEAN, SMALL, STD, cut_patches, make_ids, make_images, make_pair
from timm.models.beit import gen_relative_position_index
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from engine.models import patch_beit
from engine.models.build import build_model
from engine.models.patch_beit import COLUMNS, BiasRows, bias_rows, read_bias
from engine.models.patch_embed import PatchModel

SIMMIM = "BEiT, as SimMIM fine-tunes it"
EACH_TABLE = (SIMMIM, "BEiT, shared table", "BEiT, all kinds of positions")
GRID, HEADS = (5, 4), 3
DISTANCES = 9 * 7 + 3
TYPES = (torch.float32, torch.bfloat16)
# What sorts its indices on a GPU.
SORTING = {"embedding_dense_backward", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}


def rows_of(num_kept: int, dtype: torch.dtype, batch_size: int = 3) -> BiasRows:
    ids = torch.rand(batch_size, GRID[0] * GRID[1]).argsort(dim=1)[:, :num_kept]
    return bias_rows(gen_relative_position_index(GRID), F.pad(ids + 1, (1, 0)), dtype)


def embedded_bias(table: Tensor, rows: BiasRows) -> Tensor:
    """The same by torch's own differentiable look-up, in float32, heads last."""
    return F.embedding(rows.of_pairs, table.float()).permute(0, 3, 1, 2).to(rows.dtype)


class Counted(TorchDispatchMode):
    """How often each of torch's operations runs, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def at_224() -> PatchModel:
    """A small BEiT of 196 patches, far from its initialisation."""
    torch.manual_seed(2)
    sizes = {"image_size": 224, "patch_size": 16, "num_classes": 7}
    model = build_model("beit_base_patch16_224", mean=MEAN, std=STD, options=SMALL, **sizes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (1.0 if "gamma" in name or "bias_table" in name else 0.1))
    return model


def kept_patches(model: PatchModel, num_kept: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(num_kept)
    ids = make_ids(model, num_kept)
    return cut_patches(make_images(model), ids, model.patch_embed.patch_size[0]), ids


def step(
    model: PatchModel, patches: Tensor, ids: Tensor, device: str = "cpu", autocast: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Logits and gradients of one step on a device, brought to the CPU in float32."""
    model.to(device).zero_grad()
    with torch.autocast(device, autocast, enabled=autocast is not None):
        logits = model(patches.to(device), ids.to(device)).float()
    (logits * torch.linspace(-1, 1, logits.numel(), device=device).view_as(logits)).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None} | {"logits": logits}
    return {name: tensor.detach().float().cpu() for name, tensor in found.items()}


def assert_near(ours: dict[str, Tensor], expected: dict[str, Tensor], share: float) -> None:
    """Differences within this share of each tensor's largest value."""
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        scale = float(tensor.abs().max()) + 1e-3
        torch.testing.assert_close(
            ours[name], tensor, rtol=0, atol=share * scale, msg=lambda told, at=name: f"{at}: {told}"
        )


@pytest.mark.parametrize("num_kept", [1, 6, 7, 20])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("table_dtype", TYPES)
def test_each_pair_of_kept_patches_has_the_tables_value_for_its_distance(
    table_dtype: torch.dtype, dtype: torch.dtype, num_kept: int
) -> None:
    rows, table = rows_of(num_kept, dtype), torch.randn(DISTANCES, HEADS, dtype=table_dtype)
    bias = read_bias(table, rows)
    assert (bias.dtype, bias.shape) == (dtype, (3, HEADS, num_kept + 1, num_kept + 1))
    for image, one, other in [(0, 0, 0), (1, 0, 1), (2, 1, 0), (0, 1, 1), (1, num_kept, 1), (2, num_kept, num_kept)]:
        row = table[rows.of_pairs[image, one, other]]
        assert torch.equal(bias[image, :, one, other], row.to(dtype))
    assert torch.equal(bias, embedded_bias(table, rows))


@pytest.mark.parametrize("num_kept", [1, 6, 7, 20])
def test_a_bias_begins_each_row_where_fused_attention_wants_it(num_kept: int) -> None:
    bias = read_bias(torch.randn(DISTANCES, HEADS), rows_of(num_kept, torch.bfloat16))
    assert bias.stride(3) == 1
    assert all(stride % COLUMNS == 0 for stride in bias.stride()[:3])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("table_dtype", TYPES)
def test_a_tables_gradient_is_the_sum_over_all_pairs_of_its_distance(
    table_dtype: torch.dtype, dtype: torch.dtype
) -> None:
    rows, table = rows_of(12, dtype, batch_size=40), torch.randn(DISTANCES, HEADS, dtype=table_dtype)
    # As fused attention hands it over on a GPU: cut out of a wider one.
    gradient = torch.rand(40, HEADS, 13, 16).to(dtype)[..., :13]
    read_bias(table.requires_grad_(), rows).backward(gradient)
    expected = torch.zeros(DISTANCES, HEADS, dtype=torch.double)
    expected.index_add_(0, rows.of_pairs.flatten(), gradient.double().permute(0, 2, 3, 1).reshape(-1, HEADS))
    assert table.grad is not None
    assert (table.grad.dtype, table.grad.stride()) == (table_dtype, table.stride())
    # Summed up in float32 whatever the types; in bfloat16 thousands of pairs would come out at half of it or less.
    torch.testing.assert_close(
        table.grad.double(), expected, rtol=1e-6 if table_dtype == torch.float32 else 0.005, atol=0
    )


@pytest.mark.parametrize("precision", ["float32", "weights in bfloat16", "autocast to bfloat16"])
@pytest.mark.parametrize("kind", EACH_TABLE)
def test_a_model_computes_what_it_computes_with_torchs_own_look_up(
    kind: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = make_pair(kind)
    inputs = kept_patches(model, 6)
    model = model.bfloat16() if precision == "weights in bfloat16" else model
    autocast = torch.bfloat16 if precision == "autocast to bfloat16" else None
    ours = step(model, *inputs, autocast=autocast)
    monkeypatch.setattr(patch_beit, "read_bias", embedded_bias)
    expected = step(model, *inputs, autocast=autocast)
    assert torch.equal(ours["logits"], expected["logits"])
    assert_near(ours, expected, 1e-6 if precision == "float32" else 0.005)


@pytest.mark.parametrize(
    ("weights", "autocast", "expected"),
    [
        (torch.float32, None, torch.float32),
        (torch.bfloat16, None, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.bfloat16),
    ],
)
def test_the_bias_comes_in_the_type_that_attention_computes_in(
    weights: torch.dtype, autocast: torch.dtype | None, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = []

    def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, **options: Any) -> Tensor:
        types.append((q.dtype, attn_mask.dtype))
        return v

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    model, _ = make_pair(SIMMIM)
    step(model.to(weights), *kept_patches(model, 6), autocast=autocast)
    assert types == [(expected, expected)] * len(model.blocks)


@pytest.mark.parametrize("num_kept", [6, 16])
def test_pairs_are_indexed_once_a_step_and_never_sorted(num_kept: int) -> None:
    model, _ = make_pair(SIMMIM)
    inputs, everything = kept_patches(model, num_kept), num_kept == model.patch_embed.num_patches
    with Counted() as counted:
        step(model, *inputs)
    assert counted.calls["index"] == counted.calls["constant_pad_nd"] - 1 == 1  # and the class token's place is padded
    # Whole images are brought into raster order and back: their tokens, not their pairs.
    reordered = 2 * everything
    assert counted.calls["sort"] == reordered
    assert counted.calls["gather"] == len(model.blocks) + reordered
    assert counted.calls["scatter_add_"] == len(model.blocks)
    assert not SORTING & counted.calls.keys()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
@pytest.mark.parametrize(("kind", "num_kept"), [*((kind, 6) for kind in EACH_TABLE), (SIMMIM, 7), (SIMMIM, 16)])
def test_on_a_gpu_a_model_computes_what_it_computes_on_a_cpu(kind: str, num_kept: int) -> None:
    assert_same_on_a_gpu(make_pair(kind)[0], num_kept, share_in_bfloat16=0.2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
@pytest.mark.parametrize("num_kept", [39, 117, 196])
def test_on_a_gpu_a_model_at_224_computes_what_it_computes_on_a_cpu(num_kept: int) -> None:
    assert_same_on_a_gpu(at_224(), num_kept, share_in_bfloat16=0.05)


def assert_same_on_a_gpu(model: PatchModel, num_kept: int, share_in_bfloat16: float) -> None:
    """In float32 (or TF32, where that is on) and under autocast; with no gradient another kernel may compute.

    Args:
        share_in_bfloat16: about three times the share by which autocast on a CPU is off.
    """
    inputs = kept_patches(model, num_kept)
    expected = step(model, *inputs)
    for autocast, share in ((None, 0.02), (torch.bfloat16, share_in_bfloat16)):
        assert_near(step(model, *inputs, device="cuda", autocast=autocast), expected, share)
        with torch.no_grad(), torch.autocast("cuda", autocast, enabled=autocast is not None):
            logits = model(*(tensor.cuda() for tensor in inputs)).float().cpu()
        assert_near({"logits": logits}, {"logits": expected["logits"]}, share)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_on_a_gpu_nothing_is_sorted_and_fused_attention_takes_the_bias_as_it_is(autocast: torch.dtype | None) -> None:
    model = at_224()
    patches, ids = (tensor.cuda() for tensor in kept_patches(model, 117))
    step(model, patches, ids, device="cuda", autocast=autocast)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        step(model, patches, ids, device="cuda", autocast=autocast)
    calls = {event.key: event.count for event in profiled.key_averages()}
    assert not [name for name in calls if "sort" in name.lower() or name.removeprefix("aten::") in SORTING]
    assert calls.get("aten::_scaled_dot_product_efficient_attention_backward") == len(model.blocks)
    # A bias whose rows began elsewhere would be padded in each block; these are the pairs' and the class token's.
    assert calls.get("aten::constant_pad_nd") == 2
