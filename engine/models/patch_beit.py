"""BEiT from kept patches, and with it the ViT of SimMIM.

BEiT (arXiv 2106.08254) adds to the attention scores a bias that depends on how far two patches lie apart, read
from a small table. With patches dropped the distances stay what they are in the full grid, so the table is read
for the kept patches' places, for each image its own.

SimMIM's ViT-B (arXiv 2111.09886) at 224 is ``beit_base_patch16_224`` as timm builds it, without further options:
16-pixel patches, one table a block, no absolute positions, layer scale from 0.1, biases on queries and values,
mean pooling of the patches.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models._manipulate import checkpoint
from timm.models.beit import Attention, Beit, RelativePositionBias
from torch import Tensor

from engine.models.patch_embed import PatchModel, adopt

BEIT_OPTIONS = (
    *("embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "init_values", "swiglu_mlp", "scale_mlp"),
    *("use_abs_pos_emb", "use_rel_pos_bias", "use_shared_rel_pos_bias"),
    *("global_pool", "use_fc_norm", "head_init_scale"),
    *("pos_drop_rate", "proj_drop_rate", "attn_drop_rate"),
)


def read_bias(table: Tensor, index: Tensor) -> Tensor:
    """The bias [B, heads, T, T] for rows ``index`` [B, T, T] of ``table`` [distances, heads], in the table's dtype."""
    # F.embedding, because its backward is much faster on a CPU than that of indexing; in float32, because a row's
    # gradient sums up over thousands of pairs; contiguous, for fused attention.
    return F.embedding(index, table.float()).to(table.dtype).permute(0, 3, 1, 2).contiguous()


class KeptAttention(Attention):
    """Stands in for a block's attention and reads its own table for the kept patches.

    The table is used only inside this module's own forward, which is where ZeRO-3 gathers it; so each block's
    bias is made when the block runs, not for all of them at once.
    """

    def __init__(self, attention: Attention) -> None:
        adopt(self, attention)

    def forward(self, x: Tensor, shared_rel_pos_bias: tuple[Tensor, Tensor | None] | None = None) -> Tensor:
        """timm's attention over tokens [B, T, D].

        Args:
            shared_rel_pos_bias: under timm's name, because its block hands it on by that name: the rows
                [B, T, T] of the table, and the bias that all blocks share, if there is one.
        """
        assert shared_rel_pos_bias is not None
        self._index, shared = shared_rel_pos_bias
        try:
            return super().forward(x, shared)
        finally:
            del self._index

    def _get_rel_pos_bias(self) -> Tensor:
        return read_bias(self.relative_position_bias_table, self._index)


class KeptRelativePositionBias(RelativePositionBias):
    """Stands in for the table that all blocks share, and reads it for the kept patches."""

    def __init__(self, bias: RelativePositionBias) -> None:
        adopt(self, bias)

    def forward(self, index: Tensor) -> Tensor:
        """The bias [B, heads, T, T] for rows ``index`` [B, T, T] of the table."""
        return read_bias(self.relative_position_bias_table, index)


class PatchBeit(PatchModel, Beit):
    """timm's ``Beit`` from kept patches."""

    rel_pos_bias: Any

    def __init__(self, vit: Beit, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(vit, mean=mean, std=std)
        for block in self.blocks:
            block.attn = KeptAttention(block.attn)
        if self.rel_pos_bias is not None:
            self.rel_pos_bias = KeptRelativePositionBias(self.rel_pos_bias)

    def forward_features(self, patches: Tensor, ids_keep: Tensor) -> Tensor:
        """The final tokens [B, 1 + K, D] of kept patches; arguments as for ``forward``."""
        x = self.pos_drop(self._embed(patches, ids_keep))
        # In the full sequence the class token comes first.
        places = F.pad(ids_keep.long() + 1, (1, 0))
        order = None
        if ids_keep.shape[1] == self.patch_embed.num_patches:
            # Nothing is dropped: in raster order all images share one bias, which saves its copy for each of them.
            order = places.argsort(dim=1)
            x = _reorder(x, order)
            places = torch.arange(places.shape[1], device=places.device)[None]
        x = self._run_blocks(x, places)
        if order is not None:
            x = _reorder(x, order.argsort(dim=1))
        return self.norm(x)

    def _run_blocks(self, x: Tensor, places: Tensor) -> Tensor:
        """The blocks over tokens [B, T, D] at ``places`` [B or 1, T] of the full sequence."""
        index = self._bias_index()
        if index is not None:
            index = index[places[:, :, None], places[:, None, :]]
        shared = self.rel_pos_bias(index) if self.rel_pos_bias is not None else None
        for block in self.blocks:
            if self.grad_checkpointing:
                x = checkpoint(block, x, shared_rel_pos_bias=(index, shared))
            else:
                x = block(x, shared_rel_pos_bias=(index, shared))
        return x

    def _bias_index(self) -> Tensor | None:
        """timm's rows of the table for every pair of places [N + 1, N + 1], or None where no bias is used."""
        holder = self.blocks[0].attn if self.rel_pos_bias is None else self.rel_pos_bias
        return holder.relative_position_index


def _reorder(x: Tensor, order: Tensor) -> Tensor:
    """Rows ``order`` [B, T] of ``x`` [B, T, D]."""
    return x.gather(1, order[:, :, None].expand_as(x))
