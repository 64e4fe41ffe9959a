import copy
import inspect

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patch_models import (
    MEAN,
    MODELS,
    SMALL,
    STD,
    cut_patches,
    make_ids,
    make_images,
    make_pair,
    normalized,
    reference_logits,
)
from timm.models.eva import Eva
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine.models.build import build_model, training_flops_per_image, vit_forward_flops
from engine.models.patch_embed import normalize_patches

each_model = pytest.mark.parametrize("kind", MODELS)
# One for each way in which a family places its patches.
FAMILIES = ("custom grid", "distilled", "BEiT, all kinds of positions", "EVA-02", "learned rotary")


@each_model
def test_with_every_patch_kept_the_logits_are_timms_on_the_full_image(kind: str) -> None:
    model, plain = make_pair(kind)
    images, ids = make_images(model), make_ids(model, model.patch_embed.num_patches)
    patches = cut_patches(images, ids, model.patch_embed.patch_size[0])
    with torch.no_grad():
        torch.testing.assert_close(model(patches, ids), plain(normalized(images)), rtol=1e-4, atol=1e-4)


@each_model
def test_with_fewer_patches_the_logits_and_gradients_are_those_of_timms_blocks_on_the_kept_tokens(
    kind: str,
) -> None:
    model, plain = make_pair(kind)
    images, ids = make_images(model), make_ids(model, model.patch_embed.num_patches // 3)
    patches = cut_patches(images, ids, model.patch_embed.patch_size[0])
    logits, expected = model(patches, ids.int()), reference_logits(plain, images, ids)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    weights = torch.randn_like(logits)
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    expected_grads = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        expected_grad = expected_grads[name].grad
        assert parameter.grad is not None, name
        scale = float(expected_grad.abs().max()) + 1e-3
        torch.testing.assert_close(parameter.grad, expected_grad, rtol=0, atol=1e-4 * scale, msg=name)


@each_model
def test_parameter_names_and_shapes_are_timms(kind: str) -> None:
    model, plain = make_pair(kind)
    expected = {name: value.shape for name, value in plain.state_dict().items()}
    assert {name: value.shape for name, value in model.state_dict().items()} == expected
    assert sorted(name for name, _ in model.named_parameters()) == sorted(expected)


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(FAMILIES), seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_the_order_of_the_patches_does_not_matter(kind: str, seed: int, share: float) -> None:
    model, _ = make_pair(kind)
    torch.manual_seed(seed)
    num_kept = max(1, round(share * model.patch_embed.num_patches))
    images, ids = make_images(model), make_ids(model, num_kept)
    patches, order = cut_patches(images, ids, model.patch_embed.patch_size[0]), torch.randperm(num_kept)
    with torch.no_grad():
        torch.testing.assert_close(model(patches[:, order], ids[:, order]), model(patches, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_final_tokens_come_in_the_order_of_the_patches(kind: str) -> None:
    model, _ = make_pair(kind)
    num_patches, num_prefix = model.patch_embed.num_patches, model.num_prefix_tokens
    images, ids = make_images(model), make_ids(model, num_patches)
    patches, order = cut_patches(images, ids, model.patch_embed.patch_size[0]), torch.randperm(num_patches)
    with torch.no_grad():
        tokens, shuffled = (
            model.forward_features(patches, ids),
            model.forward_features(patches[:, order], ids[:, order]),
        )
    torch.testing.assert_close(shuffled[:, num_prefix:], tokens[:, num_prefix:][:, order], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [*FAMILIES, "BEiT, as SimMIM fine-tunes it", "DINOv3"])
def test_a_patch_in_another_place_changes_the_logits(kind: str) -> None:
    model, _ = make_pair(kind)
    num_patches = model.patch_embed.num_patches
    images, ids = make_images(model), make_ids(model, 10)
    patches = cut_patches(images, ids, model.patch_embed.patch_size[0])
    with torch.no_grad():
        assert not torch.allclose(model(patches, ids), model(patches, (ids * 5 + 1) % num_patches), atol=1e-3)


@each_model
def test_the_patch_embedding_is_a_kernel_a_bias_and_positions(kind: str) -> None:
    model, plain = make_pair(kind)
    images, ids = make_images(model), make_ids(model, model.patch_embed.num_patches)
    patches = cut_patches(images, ids, model.patch_embed.patch_size[0])
    kernel, bias, positions = model.patch_embedding()
    embedded = normalize_patches(patches, MEAN, STD) @ kernel.T + bias
    by_timm = plain.patch_embed.proj(normalized(images)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedded, by_timm, rtol=1e-4, atol=1e-4)
    if plain.pos_embed is None:
        assert positions is None
    else:
        torch.testing.assert_close(positions, plain.pos_embed[0, -model.patch_embed.num_patches :])


@pytest.mark.skipif(
    "rope_shift_coords" not in inspect.signature(Eva.__init__).parameters, reason=f"timm {timm.__version__} shifts none"
)
@pytest.mark.parametrize("kind", ["EVA-02", "DINOv3", "rotary, grouped queries"])
def test_rotary_coordinates_that_timm_shifts_in_training_shift_here(kind: str) -> None:
    name, image_size, patch_size, options = MODELS[kind]
    settings = {"num_classes": 7, "mean": MEAN, "std": STD, "options": options | {"rope_shift_coords": 0.5}}
    torch.manual_seed(1)
    model = build_model(name, image_size=image_size, patch_size=patch_size, **settings)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    images, ids = make_images(model), make_ids(model, model.patch_embed.num_patches)
    patches = cut_patches(images, ids, patch_size)
    plain = timm.create_model(name, img_size=image_size, patch_size=patch_size, num_classes=7, **settings["options"])
    plain.load_state_dict(model.state_dict())
    results = []
    for training, seed in ((True, 1), (True, 2), (False, 1), (True, 1)):
        torch.manual_seed(seed)
        logits = model.train(training)(patches, ids)
        torch.manual_seed(seed)
        torch.testing.assert_close(logits, plain.train(training)(normalized(images)), rtol=1e-4, atol=1e-4)
        results.append(logits)
    assert torch.equal(results[0], results[3])
    assert not any(torch.allclose(results[0], other) for other in results[1:3])


def test_patches_are_normalized_in_float32_even_if_the_model_is_cast_to_bfloat16() -> None:
    model, _ = make_pair("custom grid")
    half = copy.deepcopy(model).to(torch.bfloat16)
    images, ids = make_images(model), make_ids(model, 12)
    patches = cut_patches(images, ids, 4)
    seen: list[Tensor] = []
    half.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        logits, expected = half(patches, ids), model(patches, ids)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))
    exact = (patches.double().reshape(2, 12, 16, 3) / 255 - torch.tensor(MEAN).double()) / torch.tensor(STD)
    torch.testing.assert_close(seen[0].double(), exact.reshape(2, 12, 48), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", FAMILIES)
def test_under_autocast_every_family_computes_in_bfloat16_and_learns_in_float32(kind: str) -> None:
    model, _ = make_pair(kind)
    images, ids = make_images(model), make_ids(model, 5)
    patches = cut_patches(images, ids, model.patch_embed.patch_size[0])
    with torch.no_grad():
        expected = model.eval()(patches, ids)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(patches, ids)
    assert logits.dtype == torch.bfloat16
    assert float((logits.detach().float() - expected).norm() / expected.norm()) < 0.05
    logits.float().square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert {None if gradient is None else gradient.dtype for gradient in gradients} == {torch.float32}


def test_normalizing_leaves_the_patches_as_they_were() -> None:
    patches = torch.randint(0, 256, (2, 3, 48), dtype=torch.uint8)
    before = patches.clone()
    normalize_patches(patches, MEAN, STD)
    assert torch.equal(patches, before)


@pytest.mark.parametrize("kind", FAMILIES)
def test_activation_checkpointing_changes_neither_logits_nor_gradients(kind: str) -> None:
    model, _ = make_pair(kind)
    saving = copy.deepcopy(model)
    saving.set_grad_checkpointing(True)
    images, ids = make_images(model), make_ids(model, 12)
    patches = cut_patches(images, ids, model.patch_embed.patch_size[0])
    for one in (model, saving):
        one.train()
        one(patches, ids).square().sum().backward()
    for (name, a), (_, b) in zip(model.named_parameters(), saving.named_parameters(), strict=True):
        assert a.grad is not None, name
        assert torch.equal(a.grad, b.grad), name


def test_a_model_can_be_asked_to_checkpoint_activations_and_to_drop_paths() -> None:
    model = build_model(
        "vit_tiny_patch16_224",
        image_size=28,
        patch_size=4,
        num_classes=10,
        mean=MEAN,
        std=STD,
        drop_path=0.3,
        drop_rate=0.2,
        checkpoint_activations=True,
        options=SMALL,
    )
    assert model.grad_checkpointing
    assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
    assert model.head_drop.p == 0.2
    assert model.timm_args == {"img_size": 28, "patch_size": 4, **SMALL}


def test_patch_dropout_is_timms_in_training_and_none_in_evaluation() -> None:
    options = SMALL | {"patch_drop_rate": 0.4}
    sizes = {"patch_size": 4, "num_classes": 10}
    model = build_model("vit_tiny_patch16_224", image_size=28, mean=MEAN, std=STD, options=options, **sizes)
    plain = timm.create_model("vit_tiny_patch16_224", img_size=28, **sizes, **options)
    with torch.no_grad():
        model.head.weight.normal_()  # fresh, it is zero
    plain.load_state_dict(model.state_dict())
    images, ids = make_images(model), make_ids(model, 49)
    patches = cut_patches(images, ids, 4)
    logits = {}
    for trains in (True, False):
        torch.manual_seed(3)
        logits[trains] = model.train(trains)(patches, ids)
        torch.manual_seed(3)
        torch.testing.assert_close(logits[trains], plain.train(trains)(normalized(images)), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits[True], logits[False])


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_drops_whole_paths_in_training_and_none_in_evaluation(kind: str) -> None:
    name, image_size, patch_size, options = MODELS[kind]
    model = build_model(
        name,
        image_size=image_size,
        patch_size=patch_size,
        num_classes=7,
        mean=MEAN,
        std=STD,
        drop_path=0.9,
        options=options,
    )
    patches = torch.randint(0, 256, (8, 6, patch_size**2 * 3), dtype=torch.uint8)[:1].expand(8, -1, -1)
    ids = torch.arange(6).repeat(8, 1)
    torch.manual_seed(0)
    tokens = {training: model.train(training).forward_features(patches, ids) for training in (False, True)}
    # Not to the last bit: a product of many matrices may round one of them otherwise than another.
    torch.testing.assert_close(tokens[False], tokens[False][:1].expand_as(tokens[False]))
    assert not torch.allclose(tokens[True], tokens[True][:1])


@pytest.mark.parametrize(
    ("kind", "num_kept"),
    [
        *(("tiny", 38), ("tiny", 196), ("custom grid", 9), ("registers", 5), ("norm in the embedding, gated MLP", 4)),
        *(("distilled", 7), ("BEiT, all kinds of positions", 7), ("BEiT, as SimMIM fine-tunes it", 16)),
        *(("EVA-02", 7), ("EVA-02, separate projections", 7), ("DINOv3", 7), ("rotary, grouped queries", 7)),
    ],
)
def test_counted_flops_are_those_torch_counts(kind: str, num_kept: int) -> None:
    model, _ = make_pair(kind)
    images, ids = make_images(model, batch=1), make_ids(model, num_kept, batch=1)
    patches = cut_patches(images, ids, model.patch_embed.patch_size[0])
    # torch counts the attention of its plain kernel; it has no formula for the fused one on a CPU.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(patches, ids)
    assert training_flops_per_image(model, num_kept) == 3 * counter.get_total_flops()


def test_flops_of_vit_base_are_known_and_need_no_weights() -> None:
    with torch.device("meta"):
        model = build_model("vit_base_patch16_224", image_size=224, patch_size=16, num_classes=1000, mean=MEAN, std=STD)
    assert all(parameter.is_meta for parameter in model.parameters())
    forward = vit_forward_flops(
        num_kept=196, num_prefix=1, embed_dim=768, depth=12, mlp_ratio=4, patch_dim=768, num_classes=1000
    )
    assert training_flops_per_image(model, 196) == 3 * forward
    # DeiT (arXiv 2012.12877) gives ViT-B 17.6 billion multiply-adds.
    assert forward / 2 == pytest.approx(17.6e9, rel=0.01)


@pytest.mark.parametrize("kind", FAMILIES)
def test_flops_of_every_family_can_be_counted_without_weights(kind: str) -> None:
    name, image_size, patch_size, options = MODELS[kind]
    settings = {"image_size": image_size, "patch_size": patch_size, "num_classes": 7, "mean": MEAN, "std": STD}
    with torch.device("meta"):
        model = build_model(name, options=options, **settings)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert training_flops_per_image(model, 5) == training_flops_per_image(make_pair(kind)[0], 5)


def test_simmims_vit_base_is_timms_beit_base_without_further_options() -> None:
    with torch.device("meta"):
        model = build_model(
            "beit_base_patch16_224", image_size=224, patch_size=16, num_classes=1000, mean=MEAN, std=STD, options={}
        )
    assert (model.embed_dim, len(model.blocks), model.pos_embed, model.rel_pos_bias) == (768, 12, None, None)
    assert (model.global_pool, model.num_prefix_tokens, model.head_init_scale) == ("avg", 1, 0.001)
    assert isinstance(model.norm, torch.nn.Identity)
    for block in model.blocks:
        assert (block.init_values, block.attn.num_heads) == (0.1, 12)
        assert block.attn.relative_position_bias_table.shape == (27**2 + 3, 12)
        assert block.attn.q_bias is not None
        assert block.norm1.eps == 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "vit_bas_patch16_224"}, "nearest ones that work here: vit_base_patch16_224"),
        ({"name": "swin_tiny_patch4_window7_224"}, "another family .*swin_transformer"),
        ({"name": "vit_base_r50_s16_224"}, "another family .*hybrid"),
        ({"name": "vit_tiny_patch16_224.nope"}, "no weights 'nope' .* it has: augreg_in21k"),
        ({"patch_size": 5}, "a patch of 5 pixels does not divide an image of 28 pixels"),
        ({"num_classes": 0}, "num_classes = 0"),
        ({"mean": (0.5,)}, "mean takes 3 values"),
        ({"std": (1, 0, 1)}, "std takes 3 values"),
        ({"drop_path": 1.5}, "drop_path must lie in"),
        ({"options": {"embed_dims": 96}}, "unknown model option 'embed_dims'; did you mean 'embed_dim'"),
        ({"options": {"num_heads": 5}}, "divisible by num_heads"),
        ({"options": {"class_token": False}}, "Token pooling needs the class token|timm refuses them without a reason"),
        ({"options": {"global_pool": ""}}, "set the option global_pool"),
        ({"name": "beit_base_patch16_224", "options": {"reg_tokens": 2}}, "unknown model option 'reg_tokens'"),
        ({"name": "deit_tiny_distilled_patch16_224", "options": {"reg_tokens": 2}}, "unknown model option"),
        ({"name": "vit_small_patch16_dinov3", "options": {"patch_drop_rate": 0.5}}, "for plain ViTs alone"),
        ({"name": "vit_small_patch16_rope_mixed_224", "options": {"num_heads": 5}}, "timm cannot build"),
        ({"head_init_std": -1.0}, "head_init_std must be at least 0"),
    ],
)
def test_an_impossible_model_is_refused_in_plain_words(change: dict, message: str) -> None:
    arguments: dict = {
        "name": "vit_tiny_patch16_224",
        "image_size": 28,
        "patch_size": 4,
        "num_classes": 10,
        "mean": MEAN,
        "std": STD,
    }
    with pytest.raises(ValueError, match=message):
        build_model(**(arguments | change))


@pytest.mark.parametrize("fault", ["float patches", "another patch size", "ids of another shape", "float ids"])
def test_wrong_input_is_refused_with_its_shape(fault: str) -> None:
    model, _ = make_pair("custom grid")
    patches, ids = torch.zeros(2, 5, 48, dtype=torch.uint8), torch.arange(5).repeat(2, 1)
    broken = {
        "float patches": (patches.float(), ids),
        "another patch size": (patches[..., :27], ids),
        "ids of another shape": (patches, ids[:, :4]),
        "float ids": (patches, ids.float()),
    }[fault]
    with pytest.raises(ValueError, match=r"\[2, 5"):
        model(*broken)


@pytest.mark.parametrize("kind", [*FAMILIES, "BEiT, as SimMIM fine-tunes it", "DINOv3"])
def test_a_patch_outside_the_grid_is_an_error(kind: str) -> None:
    model, _ = make_pair(kind)
    values = 3 * model.patch_embed.patch_size[0] ** 2
    with pytest.raises(IndexError):
        model(torch.zeros(1, 1, values, dtype=torch.uint8), torch.tensor([[model.patch_embed.num_patches]]))
