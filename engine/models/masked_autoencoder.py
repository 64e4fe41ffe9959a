"""Reconstruction pre-training: a masked autoencoder around a ViT that sees kept patches only.

He et al., arXiv 2111.06377: the encoder looks at a random quarter of the patches, a small decoder gets its tokens with
a mask token in the place of every other patch, and has to say what those looked like. The encoder is what is kept.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from engine.config import PretrainConfig
from engine.models.patch_embed import PatchModel, normalize_patches
from engine.models.patch_vit import PatchViT
from engine.models.weights import LoadReport

_ENCODER = "encoder."
_VARIANCE_FLOOR = 1e-6  # MAE's, for patches of one colour


class MaskedAutoencoder(nn.Module):
    """Predicts the pixels of target patches from kept ones.

    Takes ``encoder`` over and takes its classifier off: the encoder gives all its tokens, and every parameter left has
    a gradient. What was taken off stays untrained in ``taken_off``, for the export.

    Attributes:
        encoder: gives tokens [B, prefix + K, D] for patches and ids.
        taken_off: the classifier's parameters by their name in the encoder, on the CPU.
        norm_targets: see ``reconstruction_loss``.
    """

    decoder_positions: Tensor

    def __init__(self, encoder: PatchViT, config: PretrainConfig) -> None:
        super().__init__()
        whole = {name: tensor.detach().cpu() for name, tensor in encoder.state_dict().items()}
        encoder.reset_classifier(0, global_pool="")
        left = encoder.state_dict().keys()
        self.taken_off = {name: tensor for name, tensor in whole.items() if name not in left}
        self.encoder, self.norm_targets = encoder, config.norm_targets
        width, (height, columns) = config.decoder_dim, encoder.patch_embed.patch_size
        self.decoder_embed = nn.Linear(encoder.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = build_sincos2d_pos_embed(list(encoder.patch_embed.grid_size), width)
        self.register_buffer("decoder_positions", positions, persistent=False)
        blocks = (Block(width, config.decoder_heads, qkv_bias=True) for _ in range(config.decoder_depth))
        self.decoder_blocks = nn.Sequential(*blocks)
        self.decoder_norm = nn.LayerNorm(width)
        self.decoder_pixels = nn.Linear(width, height * columns * 3)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pixels):
            part.apply(_xavier)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, patches: Tensor, ids_keep: Tensor, ids_target: Tensor) -> Tensor:
        """Predict the target patches.

        Args:
            patches: uint8 [B, K, P*P*3], the kept patches.
            ids_keep: int32 or int64 [B, K], their places in the full grid.
            ids_target: int32 or int64 [B, T], the places to predict.

        Returns:
            [B, T, P*P*3] in the parameters' dtype or autocast's, values as ``reconstruction_loss`` compares them.
        """
        tokens = self.decoder_embed(self.encoder(patches, ids_keep))
        num_prefix = self.encoder.num_prefix_tokens
        # DeepSpeed leaves buffers as they are under bf16; under autocast places stay float32, as the encoder's do.
        positions = self.decoder_positions.to(self.mask_token.dtype)
        seen = tokens[:, num_prefix:] + F.embedding(ids_keep, positions)
        masked = self.mask_token + F.embedding(ids_target, positions)
        # Every token carries its place, so their order does not matter: the targets come last.
        x = torch.cat([tokens[:, :num_prefix], seen, masked], dim=1)
        x = checkpoint_seq(self.decoder_blocks, x) if self.encoder.grad_checkpointing else self.decoder_blocks(x)
        return self.decoder_pixels(self.decoder_norm(x[:, -ids_target.shape[1] :]))

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay beside norms and biases, as in timm's models."""
        return {"mask_token", *(f"{_ENCODER}{name}" for name in self.encoder.no_weight_decay())}

    def encoder_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of this model's weights the encoder's, by its own names, with the classifier that was taken off."""
        own = {name.removeprefix(_ENCODER): tensor for name, tensor in weights.items() if name.startswith(_ENCODER)}
        return {**own, **self.taken_off}

    @property
    def load_report(self) -> LoadReport | None:
        """What pretrained weights filled in, None where the encoder starts from its initialisation."""
        return self.encoder.load_report

    @property
    def timm_name(self) -> str:
        """The encoder's."""
        return self.encoder.timm_name

    @property
    def timm_args(self) -> dict[str, Any]:
        """The encoder's."""
        return self.encoder.timm_args


def masked_autoencoder(encoder: PatchModel, config: PretrainConfig) -> MaskedAutoencoder:
    """The autoencoder around an encoder.

    Raises:
        ValueError: the encoder is no plain ViT.
    """
    if type(encoder) is not PatchViT:
        raise ValueError(
            f"task pretrain works on timm's plain ViT and DeiT models, and model.name {encoder.timm_name!r} is another "
            "kind; choose one such as vit_base_patch16_224"
        )
    return MaskedAutoencoder(encoder, config)


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def reconstruction_loss(
    predicted: Tensor, target_patches: Tensor, *, mean: Sequence[float], std: Sequence[float], norm_targets: bool
) -> Tensor:
    """Mean squared error over all target pixels of each image, float32 [B].

    Args:
        predicted: [B, T, P*P*3], any floating dtype.
        target_patches: uint8 [B, T, P*P*3].
        mean, std: of RGB values in [0, 1]; the targets are normalised with them as the encoder's input is.
        norm_targets: then each patch is also brought to mean 0 and variance 1 over its own values (section 4.1, "w/
            norm").
    """
    target = normalize_patches(target_patches, mean, std)
    if norm_targets:
        variance, centre = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - centre) / (variance + _VARIANCE_FLOOR).sqrt()
    return (predicted.float() - target).square().mean(dim=(1, 2))
