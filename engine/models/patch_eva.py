"""The EVA family from kept patches: EVA, EVA-02, DINOv3, Perception Encoder, ViTs with rotary positions.

Rotary positions (arXiv 2104.09864) turn queries and keys by angles that depend on the patch's place. timm makes
the table of angles for the whole grid; here the rows of the kept patches are read from it. For another grid the table
is the one that timm makes for a model of that grid: nothing is resampled.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.pos_embed_sincos import RotaryEmbeddingMixed
from timm.models._manipulate import checkpoint
from timm.models.eva import Eva
from torch import Tensor

from engine.models.patch_embed import PatchModel, Sizes, adopt

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
        """timm's tables [depth, heads, N, 2 * head_dim] of a grid; None: of the one it was made for."""
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
        self._fixed_tables: dict[tuple[torch.device, int], Tensor] = {}
        self._ropes: dict[tuple[torch.device, int], Any] = {}

    def forward_features(
        self, patches: Tensor, ids_keep: Tensor, *, image_size: int | None = None, patch_size: int | None = None
    ) -> Tensor:
        """The final tokens [B, num_prefix_tokens + K, D] of kept patches; arguments as for ``forward``."""
        sizes = self.patch_embed.sizes(image_size, patch_size)
        x = self.norm_pre(self.pos_drop(self._embed(patches, ids_keep, sizes)))
        for block, rope in zip(self.blocks, self._rotary_of_blocks(ids_keep, sizes), strict=True):
            x = checkpoint(block, x, rope=rope) if self.grad_checkpointing else block(x, rope=rope)
        return self.norm(x)

    def _rotary_of_blocks(self, ids_keep: Tensor, sizes: Sizes) -> Iterator[Tensor | None]:
        """For each block the angles of the kept patches, [B, 1 or heads, K, 2 * head_dim], if it uses any."""
        if self.rope is None:
            yield from [None] * len(self.blocks)
        elif isinstance(self.rope, MixedRotary):
            made_for = self.rope.feat_shape is not None and sizes.grid_size == self.patch_embed.grid_size[0]
            for table in self.rope(None if made_for else (sizes.grid_size, sizes.grid_size)):
                yield read_rotary(table, ids_keep)
        else:
            yield from [read_rotary(self._fixed_table(sizes), ids_keep)] * len(self.blocks)

    def _fixed_table(self, sizes: Sizes) -> Tensor:
        """timm's table [N, 2 * head_dim] of the grid, where nothing in it is learned."""
        grid, rope = (sizes.grid_size, sizes.grid_size), self._rope_of(sizes)
        if getattr(rope, "feat_shape", None) is not None:
            return rope.get_embed()
        if self.training and rope.aug_active:
            return rope.get_embed(shape=grid)
        # Kept once made, for timm makes it on the CPU, and a copy in every step would make the host wait for the GPU.
        place = (next(rope.buffers()).device, sizes.grid_size)
        if place not in self._fixed_tables:
            self._fixed_tables[place] = rope.get_embed(shape=grid)
        return self._fixed_tables[place]

    def _rope_of(self, sizes: Sizes) -> Any:
        """The rotary positions made for the grid of these sizes: timm's, or a copy that is kept for the next step."""
        if sizes.grid_size == self.patch_embed.grid_size[0] or not hasattr(self.rope, "update_feat_shape"):
            return self.rope
        place = (next(self.rope.buffers()).device, sizes.grid_size)
        if place not in self._ropes:
            self._ropes[place] = copy.deepcopy(self.rope)
            self._ropes[place].update_feat_shape((sizes.grid_size, sizes.grid_size))
        return self._ropes[place].train(self.training)
