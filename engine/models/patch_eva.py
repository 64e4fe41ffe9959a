"""The EVA family from kept patches: EVA, EVA-02, DINOv3, Perception Encoder, ViTs with rotary positions.

Rotary positions (arXiv 2104.09864) turn queries and keys by angles that depend on the patch's place. timm makes
the table of angles for the whole grid; here the rows of the kept patches are read from it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.pos_embed_sincos import RotaryEmbeddingMixed
from timm.models._manipulate import checkpoint
from timm.models.eva import Eva
from torch import Tensor

from engine.models.patch_embed import PatchModel, adopt

EVA_OPTIONS = (
    *("embed_dim", "depth", "num_heads", "num_kv_heads", "mlp_ratio", "qkv_bias", "qkv_fused", "qk_norm"),
    *("attn_type", "scale_attn_inner", "swiglu_mlp", "swiglu_align_to", "scale_mlp"),
    *("init_values", "attn_only_layer_scale", "class_token", "num_reg_tokens", "no_embed_class"),
    *("use_abs_pos_emb", "use_rot_pos_emb", "ref_feat_shape", "rope_type", "rope_temperature", "rope_rotate_half"),
    *("rope_grid_offset", "rope_grid_indexing", "rope_mrope_section"),
    *("rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords"),
    *("use_post_norm", "use_pre_transformer_norm", "use_post_transformer_norm", "use_fc_norm", "global_pool"),
    *("attn_pool_num_heads", "attn_pool_mlp_ratio", "head_init_scale"),
    *("pos_drop_rate", "proj_drop_rate", "attn_drop_rate"),
)


class MixedRotary(RotaryEmbeddingMixed):
    """Stands in for rotary positions with learned frequencies (arXiv 2403.13298).

    They are used only inside this module's own forward, which is where ZeRO-3 gathers them.
    """

    def __init__(self, rope: RotaryEmbeddingMixed) -> None:
        adopt(self, rope)

    def forward(self, grid_size: tuple[int, int] | None) -> Tensor:
        """timm's tables [depth, heads, N, 2 * head_dim] of the grid; None: of the grid it was made for."""
        return self.get_embed(grid_size)


def read_rotary(table: Tensor, ids_keep: Tensor) -> Tensor:
    """Rows ``ids_keep`` [B, K] of one block's ``table`` [N, R] or [heads, N, R], as [B, 1 or heads, K, R]."""
    if table.ndim == 2:
        return F.embedding(ids_keep, table)[:, None]
    by_place = F.embedding(ids_keep, table.transpose(0, 1).flatten(1))
    return by_place.unflatten(2, (table.shape[0], table.shape[2])).transpose(1, 2)


class PatchEva(PatchModel, Eva):
    """timm's ``Eva`` from kept patches.

    A model that shifts or rescales its rotary coordinates in training does so as timm does: one draw for the
    whole batch, from torch's generator.
    """

    norm_pre: Any
    rope: Any

    def __init__(self, vit: Eva, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(vit, mean=mean, std=std)
        if isinstance(self.rope, RotaryEmbeddingMixed):
            self.rope = MixedRotary(self.rope)
        self._fixed_tables: dict[torch.device, Tensor] = {}

    def forward_features(self, patches: Tensor, ids_keep: Tensor) -> Tensor:
        """The final tokens [B, num_prefix_tokens + K, D] of kept patches; arguments as for ``forward``."""
        x = self.norm_pre(self.pos_drop(self._embed(patches, ids_keep)))
        for block, rope in zip(self.blocks, self._rotary_of_blocks(ids_keep), strict=True):
            x = checkpoint(block, x, rope=rope) if self.grad_checkpointing else block(x, rope=rope)
        return self.norm(x)

    def _rotary_of_blocks(self, ids_keep: Tensor) -> Iterator[Tensor | None]:
        """For each block the angles of the kept patches, [B, 1 or heads, K, 2 * head_dim], if it uses any."""
        if self.rope is None:
            yield from [None] * len(self.blocks)
        elif isinstance(self.rope, MixedRotary):
            grid = None if self.rope.feat_shape is not None else self.patch_embed.grid_size
            for table in self.rope(grid):
                yield read_rotary(table, ids_keep)
        else:
            yield from [read_rotary(self._fixed_table(), ids_keep)] * len(self.blocks)

    def _fixed_table(self) -> Tensor:
        """timm's table [N, 2 * head_dim] of the grid, where nothing in it is learned."""
        if getattr(self.rope, "feat_shape", None) is not None:
            return self.rope.get_embed()
        if self.training and self.rope.aug_active:
            return self.rope.get_embed(shape=self.patch_embed.grid_size)
        # Kept once made, for timm makes it on the CPU, and a copy in every step would make the host wait for the GPU.
        device = next(self.rope.buffers()).device
        if device not in self._fixed_tables:
            self._fixed_tables[device] = self.rope.get_embed(shape=self.patch_embed.grid_size)
        return self._fixed_tables[device]
