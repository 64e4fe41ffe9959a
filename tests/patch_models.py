"""A small model of each family that can start from patches, and timm's own model of the same weights beside it."""

from typing import Any

import pytest
import timm
import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from torch import Tensor

from engine.models.build import build_model
from engine.models.patch_embed import PatchModel

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
    "distilled": ("deit_tiny_distilled_patch16_224", 64, 16, SMALL),
    "BEiT, as SimMIM fine-tunes it": ("beit_base_patch16_224", 64, 16, SMALL),
    "BEiT, shared table": (
        *("beit_base_patch16_224", 64, 16),
        SMALL | {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True, "global_pool": "token"},
    ),
    "BEiT, all kinds of positions": (
        *("beit_base_patch16_224", 64, 16),
        SMALL | {"use_shared_rel_pos_bias": True, "use_abs_pos_emb": True},
    ),
    "BEiT, absolute positions": (
        *("beit_base_patch16_224", 64, 16),
        SMALL | {"use_rel_pos_bias": False, "use_abs_pos_emb": True},
    ),
    "EVA-02": ("eva02_tiny_patch14_224", 56, 14, SMALL),
    "EVA-02, separate projections": ("eva02_base_patch14_448", 56, 14, SMALL),
    "EVA, post-norm": ("eva02_enormous_patch14_clip_224", 56, 14, SMALL),
    "DINOv3": ("vit_small_patch16_dinov3", 64, 16, SMALL),
    "learned rotary": ("vit_small_patch16_rope_mixed_ape_224", 64, 16, SMALL),
    "rotary, attention pooling": ("vit_pe_core_tiny_patch16_384", 64, 16, SMALL | {"attn_pool_num_heads": 3}),
    "rotary, grouped queries": ("vit_base_patch16_sapiens2", 64, 16, SMALL | {"num_kv_heads": [3, 1, 3]}),
}


def make_pair(kind: str, num_classes: int = 7) -> tuple[PatchModel, Any]:
    """A model and timm's own with the same weights, far enough from their initialisation that each one counts.

    A test of a model that this release of timm does not have is skipped.
    """
    torch.manual_seed(1)
    name, image_size, patch_size, options = MODELS[kind]
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
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
        for key, parameter in model.named_parameters():
            # Layer scales and bias tables start so small that a fault in what they scale would hide.
            small = "gamma" in key or "bias_table" in key
            parameter.add_(torch.randn_like(parameter) * (1.0 if small else 0.1))
    plain = timm.create_model(name, img_size=image_size, patch_size=patch_size, num_classes=num_classes, **options)
    plain.load_state_dict(model.state_dict(), strict=True)
    return model.eval(), plain.eval()


def make_images(model: PatchModel, batch: int = 2) -> Tensor:
    size = model.patch_embed.img_size[0]
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)


def make_ids(model: PatchModel, num_kept: int, batch: int = 2) -> Tensor:
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


def reference_logits(plain: Any, images: Tensor, ids: Tensor) -> Tensor:
    """timm's embedding of the whole image, the kept tokens picked out of it, timm's blocks on those, image by image."""
    run = {Beit: run_beit, Eva: run_eva}.get(type(plain), run_vit)
    rows = [run(plain, image[None], image_ids) for image, image_ids in zip(normalized(images), ids, strict=True)]
    return plain.forward_head(plain.norm(torch.cat(rows)))


def pick(tokens: Tensor, ids: Tensor, num_prefix: int) -> Tensor:
    """The prefix tokens and the kept patches of one image's tokens [1, T, D]."""
    return torch.cat([tokens[:, :num_prefix], tokens[:, num_prefix:][:, ids]], dim=1)


def run_vit(plain: Any, image: Tensor, ids: Tensor) -> Tensor:
    tokens = plain._pos_embed(plain.patch_embed(image))
    return plain.blocks(plain.norm_pre(pick(tokens, ids, plain.num_prefix_tokens)))


def run_eva(plain: Any, image: Tensor, ids: Tensor) -> Tensor:
    tokens, rope = plain._pos_embed(plain.patch_embed(image))
    x = plain.norm_pre(pick(tokens, ids, plain.num_prefix_tokens))
    for number, block in enumerate(plain.blocks):
        table = rope[number] if plain.rope_mixed else rope  # [N, R], or [heads, N, R]
        x = block(x) if table is None else block(x, rope=table[..., ids, :])
    return x


def run_beit(plain: Any, image: Tensor, ids: Tensor) -> Tensor:
    x = torch.cat([plain.cls_token, plain.patch_embed(image)], dim=1)
    if plain.pos_embed is not None:
        x = x + plain.pos_embed
    x = pick(x, ids, 1)
    places = torch.cat([torch.tensor([0]), ids + 1])
    shared = plain.rel_pos_bias()[:, places][:, :, places][None] if plain.rel_pos_bias is not None else None
    for block in plain.blocks:
        if block.attn.relative_position_bias_table is not None:
            own = type(block.attn)._get_rel_pos_bias(block.attn)[:, :, places][:, :, :, places]
            block.attn._get_rel_pos_bias = lambda own=own: own
        x = block(x, shared_rel_pos_bias=shared)
    return x
