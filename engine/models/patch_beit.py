"""BEiT from kept patches, and with it the ViT of SimMIM.

BEiT (arXiv 2106.08254) adds to the attention scores a bias that depends on how far two patches lie apart, read
from a small table. With patches dropped the distances stay what they are in the full grid, so the table is read
for the kept patches' places, for each image its own. For another grid the table is resized like an image of distances.

SimMIM's ViT-B (arXiv 2111.09886) at 224 is ``beit_base_patch16_224`` as timm builds it, without further options:
16-pixel patches, one table a block, no absolute positions, layer scale from 0.1, biases on queries and values,
mean pooling of the patches.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models._manipulate import checkpoint
from timm.models.beit import Attention, Beit, RelativePositionBias, gen_relative_position_index
from torch import Tensor

from engine.models.patch_embed import PatchModel, Sizes, adopt
from engine.models.resampling import apply_matrix, grid_matrix

BEIT_OPTIONS = (
    *("embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "init_values", "swiglu_mlp", "scale_mlp"),
    *("use_abs_pos_emb", "use_rel_pos_bias", "use_shared_rel_pos_bias"),
    *("global_pool", "use_fc_norm", "head_init_scale"),
    *("pos_drop_rate", "proj_drop_rate", "attn_drop_rate"),
)
# Fused attention on a GPU reads a bias whose rows begin at multiples of so many values; any other it copies first.
COLUMNS = 8
# timm's last rows of a table are no distances: from the class token, to it, and between it and itself.
CLASS_ROWS = 3


class BiasRows(NamedTuple):
    """The rows of a bias table that attention over kept patches reads: made once a step, for all blocks.

    Attributes:
        of_pairs: int64 [B or 1, T, T], the row for each pair of tokens, on the model's device.
        padded: the same [B or 1, T, P], with columns that nobody looks at up to a multiple of ``COLUMNS``.
        dtype: what attention computes in, and so that of the bias.
        resize: float32 [new distances, distances], which brings the table to the step's grid first; None: it fits.
    """

    of_pairs: Tensor
    padded: Tensor
    dtype: torch.dtype
    resize: Tensor | None = None


def bias_rows(index: Tensor, places: Tensor, dtype: torch.dtype, resize: Tensor | None = None) -> BiasRows:
    """The rows for tokens at ``places`` [B or 1, T] of the full sequence.

    Args:
        index: timm's row for every pair of places, int64 [N + 1, N + 1].
        dtype: what attention computes in.
        resize: as in ``BiasRows``.

    Raises:
        IndexError: on a CPU, for a place outside the full sequence.
    """
    of_pairs = index[places[:, :, None], places[:, None, :]]
    return BiasRows(of_pairs, F.pad(of_pairs, (0, -of_pairs.shape[2] % COLUMNS)), dtype, resize)


@functools.cache
def grid_index(grid_size: int, device: torch.device) -> Tensor:
    """timm's row of a table for every pair of places in a grid and the class token: int64 [N + 1, N + 1]."""
    return gen_relative_position_index((grid_size, grid_size), device=device)


def resized_table(table: Tensor, resize: Tensor) -> Tensor:
    """A table [distances + 3, heads] for another grid, in its dtype. The class token's rows stay what they are."""
    return torch.cat([apply_matrix(resize, table[:-CLASS_ROWS]), table[-CLASS_ROWS:]])


def read_bias(table: Tensor, rows: BiasRows) -> Tensor:
    """The bias [B or 1, heads, T, T] in ``rows.dtype`` from ``table`` [distances, heads] of any floating type.

    A gradient sums up in float32, whatever the types: one row's comes from thousands of pairs. On a CPU the sum is the
    same every time; on a GPU its last bits depend on the order in which the pairs arrive.
    """
    if rows.resize is not None:
        table = resized_table(table, rows.resize)
    return _ReadBias.apply(table, rows.of_pairs, rows.padded, rows.dtype)


class _ReadBias(torch.autograd.Function):
    """The backward pass of torch's own ways to index would sort all pairs of a batch, in each block anew."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, of_pairs: Tensor, padded: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(of_pairs)
        ctx.table_dtype, ctx.num_rows = table.dtype, table.shape[0]
        (batch_size, num_tokens, num_columns), num_heads = padded.shape, table.shape[1]
        by_head = table.to(dtype).t().contiguous().expand(batch_size, -1, -1)
        bias = by_head.gather(2, _for_each_head(padded, num_heads))
        return bias.view(batch_size, num_heads, num_tokens, num_columns)[..., :num_tokens]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (of_pairs,) = ctx.saved_tensors
        batch_size, num_heads = grad.shape[:2]
        pairs = grad.to(torch.float32, memory_format=torch.contiguous_format).flatten(2)
        # A table for each image first: on a GPU, pairs that add to the same value wait for each other.
        tables = pairs.new_zeros(batch_size, num_heads, ctx.num_rows)
        tables.scatter_add_(2, _for_each_head(of_pairs, num_heads), pairs)
        return tables.sum(0).t().to(ctx.table_dtype).contiguous(), None, None, None


def _for_each_head(rows: Tensor, num_heads: int) -> Tensor:
    """``rows`` [B, T, C] as [B, heads, T * C], without a copy."""
    return rows.flatten(1)[:, None].expand(-1, num_heads, -1)


class KeptAttention(Attention):
    """Stands in for a block's attention and reads its own table for the kept patches.

    The table is used only inside this module's own forward, which is where ZeRO-3 gathers it; so each block's
    bias is made when the block runs, not for all of them at once.
    """

    def __init__(self, attention: Attention) -> None:
        adopt(self, attention)

    def forward(self, x: Tensor, shared_rel_pos_bias: tuple[BiasRows | None, Tensor | None] | None = None) -> Tensor:
        """timm's attention over tokens [B, T, D].

        Args:
            shared_rel_pos_bias: under timm's name, because its block hands it on by that name: the rows of the
                table, if there are tables, and the bias that all blocks share, if there is one.
        """
        assert shared_rel_pos_bias is not None
        self._rows, shared = shared_rel_pos_bias
        try:
            return super().forward(x, shared)
        finally:
            del self._rows

    def _get_rel_pos_bias(self) -> Tensor:
        assert self._rows is not None
        return read_bias(self.relative_position_bias_table, self._rows)


class KeptRelativePositionBias(RelativePositionBias):
    """Stands in for the table that all blocks share, and reads it for the kept patches."""

    def __init__(self, bias: RelativePositionBias) -> None:
        adopt(self, bias)

    def forward(self, rows: BiasRows) -> Tensor:
        """The bias [B or 1, heads, T, T] of these rows of the table."""
        return read_bias(self.relative_position_bias_table, rows)


class PatchBeit(PatchModel, Beit):
    """timm's ``Beit`` from kept patches."""

    rel_pos_bias: Any

    def __init__(self, vit: Beit, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(vit, mean=mean, std=std)
        for block in self.blocks:
            block.attn = KeptAttention(block.attn)
        if self.rel_pos_bias is not None:
            self.rel_pos_bias = KeptRelativePositionBias(self.rel_pos_bias)

    def forward_features(
        self, patches: Tensor, ids_keep: Tensor, *, image_size: int | None = None, patch_size: int | None = None
    ) -> Tensor:
        """The final tokens [B, 1 + K, D] of kept patches; arguments as for ``forward``."""
        sizes = self.patch_embed.sizes(image_size, patch_size)
        x = self.pos_drop(self._embed(patches, ids_keep, sizes))
        # In the full sequence the class token comes first.
        places = F.pad(ids_keep.long() + 1, (1, 0))
        order = None
        if ids_keep.shape[1] == sizes.num_patches:
            # Nothing is dropped: in raster order all images share one bias, which saves its copy for each of them.
            order = places.argsort(dim=1)
            x = _reorder(x, order)
            places = torch.arange(places.shape[1], device=places.device)[None]
        x = self._run_blocks(x, places, sizes)
        if order is not None:
            x = _reorder(x, order.argsort(dim=1))
        return self.norm(x)

    def _run_blocks(self, x: Tensor, places: Tensor, sizes: Sizes) -> Tensor:
        """The blocks over tokens [B, T, D] at ``places`` [B or 1, T] of the full sequence."""
        rows = self._bias_rows(places, _attention_dtype(x), sizes)
        shared = self.rel_pos_bias(rows) if self.rel_pos_bias is not None else None
        for block in self.blocks:
            if self.grad_checkpointing:
                x = checkpoint(block, x, shared_rel_pos_bias=(rows, shared))
            else:
                x = block(x, shared_rel_pos_bias=(rows, shared))
        return x

    def _bias_rows(self, places: Tensor, dtype: torch.dtype, sizes: Sizes) -> BiasRows | None:
        """The rows that attention reads for tokens at ``places`` of this grid, or None where no bias is used."""
        holder = self.blocks[0].attn if self.rel_pos_bias is None else self.rel_pos_bias
        if holder.relative_position_index is None:
            return None
        own, new = self.patch_embed.grid_size[0], sizes.grid_size
        if new == own:
            return bias_rows(holder.relative_position_index, places, dtype)
        # As far as two patches of a grid lie apart, in both directions.
        resize = grid_matrix(2 * own - 1, 2 * new - 1, places.device)
        return bias_rows(grid_index(new, places.device), places, dtype, resize)


def _attention_dtype(x: Tensor) -> torch.dtype:
    """What attention over tokens ``x`` computes in: autocast's type where it is on, that of the tokens elsewhere."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _reorder(x: Tensor, order: Tensor) -> Tensor:
    """Rows ``order`` [B, T] of ``x`` [B, T, D]."""
    return x.gather(1, order[:, :, None].expand_as(x))
