import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from engine.model import PatchViT, build_model, normalize_patches, training_flops_per_image, vit_forward_flops

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3}
MODELS = {
    "tiny": ("vit_tiny_patch16_224", 224, 16, {}),
    "deit": ("deit_small_patch16_224", 224, 16, {"depth": 2}),
    "custom grid": ("vit_tiny_patch16_224", 28, 4, SMALL),
    "registers": ("vit_base_patch14_reg4_dinov2", 56, 14, SMALL),
    "registers with positions": ("vit_tiny_patch16_224", 32, 8, SMALL | {"reg_tokens": 2}),
    "average pooling": ("vit_medium_patch16_gap_240", 240, 16, SMALL),
    "class token without position": ("deit3_small_patch16_224", 64, 16, SMALL),
    "norm before the blocks": ("vit_base_patch16_clip_224", 64, 16, SMALL),
    "norm in the embedding, gated MLP": ("aimv2_large_patch14_224", 56, 14, SMALL),
    "attention pooling": ("vit_base_patch16_siglip_224", 64, 16, SMALL),
    "no positions": ("vit_tiny_patch16_224", 32, 8, SMALL | {"pos_embed": "none"}),
}
each_model = pytest.mark.parametrize("kind", MODELS)


def make_pair(kind: str, num_classes: int = 7) -> tuple[PatchViT, VisionTransformer]:
    """A model and timm's own with the same weights, far enough from their initialisation that each one counts."""
    torch.manual_seed(1)
    name, image_size, patch_size, options = MODELS[kind]
    model = build_model(
        name,
        image_size=image_size,
        patch_size=patch_size,
        num_classes=num_classes,
        mean=MEAN,
        std=STD,
        options=options,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    plain = timm.create_model(name, img_size=image_size, patch_size=patch_size, num_classes=num_classes, **options)
    plain.load_state_dict(model.state_dict(), strict=True)
    return model.eval(), plain.eval()


def make_images(model: PatchViT, batch: int = 2) -> Tensor:
    size = model.patch_embed.img_size[0]
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)


def make_ids(model: PatchViT, num_kept: int, batch: int = 2) -> Tensor:
    num_patches = model.patch_embed.num_patches
    return torch.stack([torch.randperm(num_patches)[:num_kept].sort().values for _ in range(batch)])


def cut_patches(images: Tensor, ids: Tensor, patch_size: int) -> Tensor:
    """Patches as the pipeline emits them, cut out one at a time."""
    width = images.shape[3] // patch_size
    rows = []
    for image, image_ids in zip(images, ids.tolist(), strict=True):
        row = []
        for i in image_ids:
            top, left = (i // width) * patch_size, (i % width) * patch_size
            patch = image[:, top : top + patch_size, left : left + patch_size]
            row.append(patch.permute(1, 2, 0).reshape(-1))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def normalized(images: Tensor) -> Tensor:
    return (images.float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def reference_logits(plain: VisionTransformer, images: Tensor, ids: Tensor) -> Tensor:
    """timm's embedding of the whole image, the kept tokens picked out of it, timm's blocks on those."""
    tokens = plain._pos_embed(plain.patch_embed(normalized(images)))
    prefix = plain.num_prefix_tokens
    kept = [torch.cat([one[:prefix], one[prefix:][i]]) for one, i in zip(tokens, ids, strict=True)]
    return plain.forward_head(plain.norm(plain.blocks(plain.norm_pre(torch.stack(kept)))))


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


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), num_kept=st.integers(1, 49))
def test_the_order_of_the_patches_does_not_matter(seed: int, num_kept: int) -> None:
    model, _ = make_pair("custom grid")
    torch.manual_seed(seed)
    images, ids = make_images(model), make_ids(model, num_kept)
    patches, order = cut_patches(images, ids, 4), torch.randperm(num_kept)
    with torch.no_grad():
        torch.testing.assert_close(model(patches[:, order], ids[:, order]), model(patches, ids), rtol=1e-4, atol=1e-4)


def test_a_patch_in_another_place_changes_the_logits() -> None:
    model, _ = make_pair("custom grid")
    images, ids = make_images(model), make_ids(model, 10)
    patches = cut_patches(images, ids, 4)
    with torch.no_grad():
        assert not torch.allclose(model(patches, ids), model(patches, (ids + 1) % 49), atol=1e-3)


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


def test_normalizing_leaves_the_patches_as_they_were() -> None:
    patches = torch.randint(0, 256, (2, 3, 48), dtype=torch.uint8)
    before = patches.clone()
    normalize_patches(patches, MEAN, STD)
    assert torch.equal(patches, before)


def test_activation_checkpointing_changes_neither_logits_nor_gradients() -> None:
    model, _ = make_pair("custom grid")
    saving = copy.deepcopy(model)
    saving.set_grad_checkpointing(True)
    images, ids = make_images(model), make_ids(model, 12)
    patches = cut_patches(images, ids, 4)
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


@pytest.mark.parametrize(
    ("kind", "num_kept"),
    [("tiny", 38), ("tiny", 196), ("custom grid", 9), ("registers", 5), ("norm in the embedding, gated MLP", 4)],
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "vit_bas_patch16_224"}, "nearest ones that work here: vit_base_patch16_224"),
        ({"name": "swin_tiny_patch4_window7_224"}, "another family .*swin_transformer"),
        ({"name": "beit_base_patch16_224"}, "another family .*beit"),
        ({"name": "eva02_tiny_patch14_224"}, "another family .*eva"),
        ({"name": "deit_tiny_distilled_patch16_224"}, "another family .*deit"),
        ({"name": "vit_base_r50_s16_224"}, "another family .*hybrid"),
        ({"name": "vit_tiny_patch16_224.nope"}, "no weights 'nope' .* it has: augreg_in21k"),
        ({"patch_size": 5}, "a patch of 5 pixels does not divide an image of 28 pixels"),
        ({"num_classes": 0}, "num_classes = 0"),
        ({"mean": (0.5,)}, "mean takes 3 values"),
        ({"std": (1, 0, 1)}, "std takes 3 values"),
        ({"drop_path": 1.5}, "drop_path must lie in"),
        ({"options": {"embed_dims": 96}}, "unknown model option 'embed_dims'; did you mean 'embed_dim'"),
        ({"options": {"patch_drop_rate": 0.5}}, "dropped in the data pipeline"),
        ({"options": {"num_heads": 5}}, "divisible by num_heads"),
        ({"options": {"class_token": False}}, "Token pooling needs the class token"),
        ({"options": {"global_pool": ""}}, "set the option global_pool"),
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


def test_a_patch_outside_the_grid_is_an_error() -> None:
    model, _ = make_pair("custom grid")
    with pytest.raises(IndexError):
        model(torch.zeros(1, 1, 48, dtype=torch.uint8), torch.tensor([[49]]))
