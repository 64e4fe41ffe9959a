from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from engine.config import PretrainConfig
from engine.models.build import PatchViT, build_model
from engine.models.masked_autoencoder import MaskedAutoencoder, reconstruction_loss
from engine.optim import param_groups

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 2}
DECODER = PretrainConfig(decoder_dim=16, decoder_depth=1, decoder_heads=2)
BATCH, PATCH, NUM_PATCHES, NUM_KEPT = 3, 4, 16, 5
KINDS = {
    "class token": ("vit_tiny_patch16_224", SMALL),
    "average pooling": ("vit_tiny_patch16_224", SMALL | {"global_pool": "avg"}),
    "registers": ("vit_tiny_patch16_224", SMALL | {"reg_tokens": 2}),
    "no class token": ("vit_tiny_patch16_224", SMALL | {"class_token": False, "global_pool": "avg"}),
    "attention pooling": ("vit_base_patch16_siglip_224", SMALL),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def encoder(kind: str = "class token", seed: int = 0) -> PatchViT:
    torch.manual_seed(seed)
    name, options = KINDS[kind]
    return build_model(name, image_size=16, patch_size=PATCH, num_classes=7, mean=MEAN, std=STD, options=options)


def autoencoder(kind: str = "class token") -> MaskedAutoencoder:
    return MaskedAutoencoder(encoder(kind), DECODER)


def masked(seed: int = 0) -> dict[str, Tensor]:
    """Random images: their kept patches and their others, uint8, with ids."""
    random = np.random.default_rng(seed)
    whole = torch.from_numpy(random.integers(0, 256, (BATCH, NUM_PATCHES, PATCH * PATCH * 3), dtype=np.uint8))
    ids = torch.from_numpy(np.stack([random.permutation(NUM_PATCHES) for _ in range(BATCH)]).astype(np.int32))
    ids_keep, ids_target = ids[:, :NUM_KEPT].sort(1).values, ids[:, NUM_KEPT:].sort(1).values
    rows = torch.arange(BATCH)[:, None]
    return {
        "patches": whole[rows, ids_keep.long()],
        "ids_keep": ids_keep,
        "target_patches": whole[rows, ids_target.long()],
        "ids_target": ids_target,
    }


def predict(model: MaskedAutoencoder, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["patches"], batch["ids_keep"], batch["ids_target"])


def slow_loss(predicted: np.ndarray, patches: np.ndarray, norm_targets: bool) -> list[float]:
    """The loss of each image, pixel by pixel in float64."""
    losses = []
    for image, targets in zip(predicted.astype(float), patches.astype(float), strict=True):
        errors = []
        for values, pixels in zip(image, targets, strict=True):
            target = [(pixel / 255 - MEAN[i % 3]) / STD[i % 3] for i, pixel in enumerate(pixels)]
            if norm_targets:
                centre, spread = np.mean(target), np.sqrt(np.var(target, ddof=1) + 1e-6)
                target = [(value - centre) / spread for value in target]
            errors += [(value - wanted) ** 2 for value, wanted in zip(values, target, strict=True)]
        losses.append(float(np.mean(errors)))
    return losses


@each_kind
def test_under_autocast_it_computes_in_bfloat16_and_learns_in_float32(kind: str) -> None:
    model, batch = autoencoder(kind), masked()
    with torch.no_grad():
        expected = predict(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = predict(model, batch)
    assert predicted.dtype == torch.bfloat16
    assert float((predicted.detach().float() - expected).norm() / expected.norm()) < 0.05
    predicted.float().square().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert {None if gradient is None else gradient.dtype for gradient in gradients} == {torch.float32}


@pytest.mark.parametrize("norm_targets", [True, False])
def test_the_loss_is_the_mean_squared_error_over_the_targets(norm_targets: bool) -> None:
    batch = masked()
    batch["target_patches"][0, 0] = 200  # a patch of one colour
    predicted = torch.randn(batch["target_patches"].shape)
    loss = reconstruction_loss(predicted, batch["target_patches"], mean=MEAN, std=STD, norm_targets=norm_targets)
    assert loss.dtype == torch.float32
    expected = slow_loss(predicted.numpy(), batch["target_patches"].numpy(), norm_targets)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-4)


@each_kind
def test_a_prediction_for_every_target_and_a_gradient_for_every_parameter(kind: str) -> None:
    model, batch = autoencoder(kind), masked()
    predicted = predict(model, batch)
    assert predicted.shape == batch["target_patches"].shape
    reconstruction_loss(predicted, batch["target_patches"], mean=MEAN, std=STD, norm_targets=True).mean().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    for part in ("encoder.patch_embed.proj.weight", "encoder.blocks.0.attn.qkv.weight", "decoder_embed.weight"):
        gradient = model.get_parameter(part).grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


def slow_prediction(model: MaskedAutoencoder, batch: dict[str, Tensor]) -> Tensor:
    """As published: tokens back in raster order, a mask token in each gap, positions added to all, and decoded."""
    latent = model.encoder.forward_features(batch["patches"], batch["ids_keep"])
    tokens = model.decoder_embed(latent)
    rows = []
    for row in range(BATCH):
        grid = model.mask_token[0].repeat(NUM_PATCHES, 1)
        for place, token in zip(batch["ids_keep"][row].tolist(), tokens[row, 1:], strict=True):
            grid[place] = token
        rows.append(torch.cat([tokens[row, :1], grid + model.decoder_positions]))
    decoded = model.decoder_pixels(model.decoder_norm(model.decoder_blocks(torch.stack(rows))))[:, 1:]
    return decoded[torch.arange(BATCH)[:, None], batch["ids_target"].long()]


def test_the_prediction_is_that_of_the_whole_grid_in_order() -> None:
    model, batch = autoencoder().eval(), masked()
    with torch.no_grad():
        torch.testing.assert_close(predict(model, batch), slow_prediction(model, batch), rtol=1e-4, atol=1e-5)


def test_the_decoder_knows_where_a_target_is() -> None:
    model, batch = autoencoder().eval(), masked()
    assert len(torch.unique(model.decoder_positions, dim=0)) == NUM_PATCHES
    with torch.no_grad():
        predicted = predict(model, batch)
    assert not torch.allclose(predicted[:, 0], predicted[:, 1])


@each_kind
def test_the_encoders_weights_come_back_as_a_classifiers(kind: str) -> None:
    before, model = encoder(kind).state_dict(), autoencoder(kind)
    weights = dict(model.named_parameters())
    after = model.encoder_weights(weights)
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    plain = timm.create_model(model.timm_name, num_classes=7, **model.timm_args)
    plain.load_state_dict(after, strict=True)


def test_norms_biases_tokens_and_positions_do_not_decay() -> None:
    model = autoencoder()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: list[dict[str, Any]] = param_groups(model, weight_decay=0.05)
    free = {names[id(p)] for group in groups for p in group["params"] if group["weight_decay"] == 0}
    decayed = {names[id(p)] for group in groups for p in group["params"] if group["weight_decay"]}
    assert {"mask_token", "encoder.cls_token", "encoder.pos_embed", "decoder_norm.weight"} <= free
    assert {"decoder_embed.weight", "decoder_pixels.weight", "encoder.blocks.0.mlp.fc1.weight"} <= decayed
    assert len(free) + len(decayed) == len(names)
