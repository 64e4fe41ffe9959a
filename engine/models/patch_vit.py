"""Plain ViT and DeiT from kept patches, the distilled DeiT among them."""

from typing import Any

from timm.models import checkpoint_seq
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from engine.models.patch_embed import PatchModel

VIT_OPTIONS = (
    *("embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "proj_bias", "qk_norm", "init_values"),
    *("class_token", "reg_tokens", "pos_embed", "no_embed_class"),
    *("pre_norm", "final_norm", "fc_norm", "global_pool", "pool_include_prefix"),
    *("pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate"),
)
DISTILLED_OPTIONS = (
    *("embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "proj_bias", "qk_norm", "init_values"),
    *("pos_drop_rate", "proj_drop_rate", "attn_drop_rate"),
)


class PatchViT(PatchModel, VisionTransformer):
    """timm's ``VisionTransformer`` from kept patches."""

    norm_pre: Any
    patch_drop: Any

    def forward_features(
        self, patches: Tensor, ids_keep: Tensor, *, image_size: int | None = None, patch_size: int | None = None
    ) -> Tensor:
        """The final tokens [B, num_prefix_tokens + K, D] of kept patches; arguments as for ``forward``."""
        x = self._embed(patches, ids_keep, self.patch_embed.sizes(image_size, patch_size))
        if self.pos_embed is not None:  # in timm, too, no positions means no dropout behind them
            x = self.pos_drop(x)
        x = self.norm_pre(self.patch_drop(x))
        x = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)
        return self.norm(x)


class PatchDistilledViT(PatchViT, VisionTransformerDistilled):
    """timm's ``VisionTransformerDistilled`` from kept patches: a class token, a distillation token and two heads.

    Training has no teacher here, so the loss is that of the average of both heads, in training as in
    evaluation; timm calls this fine-tuning without distillation.
    """

    cls_token: Tensor
    dist_token: Tensor

    def _prefix_tokens(self) -> list[Tensor]:
        return [self.cls_token, self.dist_token]
