"""Ways to have BEiT's relative position bias on kept patches, each a model with the same parameters."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from engine.models.build import build_model
from engine.models.patch_beit import KeptAttention
from engine.models.patch_embed import PatchModel

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class EmbeddedBias(KeptAttention):
    """As it was before: heads last, in float32, and a backward pass that sorts all pairs of a batch."""

    def _get_rel_pos_bias(self) -> Tensor:
        assert self._rows is not None
        bias = F.embedding(self._rows.of_pairs, self.relative_position_bias_table.float())
        return bias.to(self._rows.dtype).permute(0, 3, 1, 2).contiguous()


class FlexBias(KeptAttention):
    """torch's flex attention reads the table where it needs a score, so that no bias is ever made.

    Not without a GPU: there is no backward pass on a CPU.
    """

    compiled = staticmethod(torch.compile(flex_attention, dynamic=False))

    def forward(self, x: Tensor, shared_rel_pos_bias: Any = None) -> Tensor:
        """timm's attention over tokens [B, T, D]; arguments as for ``KeptAttention``."""
        rows, _ = shared_rel_pos_bias
        qkv = F.linear(x, self.qkv.weight, torch.cat((self.q_bias, self.k_bias, self.v_bias)))
        q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        by_head, of_pairs = self.relative_position_bias_table.t().contiguous(), rows.of_pairs

        def biased(score: Tensor, image: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return score + by_head[head, of_pairs[image, query, key]]

        # Without the option, fewer than 128 queries are taken for a step of decoding text.
        options: Any = {"FORCE_USE_FLEX_ATTENTION": True}
        attended = type(self).compiled(q, k, v, score_mod=biased, kernel_options=options)
        return self.proj(attended.transpose(1, 2).flatten(2))


def build(name: str, **options: Any) -> PatchModel:
    """timm's model ``name`` at 224 with patches of 16, from kept patches, with 1,000 classes."""
    return build_model(
        name, image_size=224, patch_size=16, num_classes=1000, mean=MEAN, std=STD, options=options
    ).train()


def with_attention(name: str, attention: type[KeptAttention]) -> PatchModel:
    """The model with this attention in all its blocks."""
    model = build(name)
    for block in model.blocks:
        block.attn = attention(block.attn)
    return model


WAYS: dict[str, Callable[[str], PatchModel]] = {
    "ours": build,
    "before": lambda name: with_attention(name, EmbeddedBias),
    "without bias": lambda name: build(name, use_rel_pos_bias=False),
}
WAYS_ON_A_GPU = WAYS | {"flex attention": lambda name: with_attention(name, FlexBias)}
