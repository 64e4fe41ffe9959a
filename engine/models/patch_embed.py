"""What the patch models of every family share: how kept patches become tokens with a place.

The patch convolution of a ViT does not overlap: applied to one patch it is a plain linear map. So a model can
take the kept patches themselves, place each one by its raster index in the full grid, and run timm's own
blocks on a shorter sequence, with no mask and no padding. With every patch kept the logits are timm's on the
full image.

A step may show the model images and patches of other sizes than it was configured for (``Sizes``): positions and kernel
are then resampled inside the graph, see ``engine/models/resampling.py``. At the configured sizes nothing is.

Parameters, their names and shapes are timm's, so the state dict of a patch model is an ordinary timm checkpoint.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from torch import Tensor, nn

from engine.models.resampling import resample_kernel, resample_positions
from engine.models.weights import LoadReport


class Sizes(NamedTuple):
    """What the patches of a step are cut from: images of ``image_size`` pixels a side, patches of ``patch_size``."""

    image_size: int
    patch_size: int

    @property
    def grid_size(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.grid_size**2


class PatchProjection(nn.Module):
    """The patch convolution's weight, applied to flat patches as a linear map.

    ``weight`` keeps the convolution's shape [D, 3, P, P] and ``bias`` is [D] or None. They are used only inside
    this module's own forward, which is where ZeRO-3 gathers them.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = conv.weight
        self.bias = cast(nn.Parameter | None, conv.bias)

    def kernel(self, patch_size: int | None = None) -> Tensor:
        """The weight as [D, P*P*3] in (row, column, channel) order; ``patch_size`` is P, None where it is its own."""
        own_size = self.weight.shape[-1]
        return resample_kernel(self.weight.permute(0, 2, 3, 1).flatten(1), own_size, patch_size or own_size)

    def forward(self, patches: Tensor, patch_size: int | None = None) -> Tensor:
        """Embed patches [B, K, P*P*3] in (row, column, channel) order as [B, K, D] in the weight's dtype.

        Under autocast the result is in autocast's. ``patch_size`` is P, None where it is the weight's own.
        """
        return F.linear(patches.to(self.weight.dtype), self.kernel(patch_size), self.bias)


class KeptPatchEmbed(nn.Module):
    """Stands in for timm's ``PatchEmbed``: the same parameters and grid, but it takes kept patches."""

    def __init__(self, embed: PatchEmbed) -> None:
        super().__init__()
        self.img_size: tuple[int, int] = embed.img_size
        self.patch_size: tuple[int, int] = embed.patch_size
        self.grid_size: tuple[int, int] = embed.grid_size
        self.num_patches: int = embed.num_patches
        self.proj = PatchProjection(embed.proj)
        self.norm = embed.norm

    def forward(self, patches: Tensor, patch_size: int | None = None) -> Tensor:
        """Embed normalised patches [B, K, P*P*3] as [B, K, D]; ``patch_size`` is P, None where it is the configured."""
        return self.norm(self.proj(patches, patch_size))

    def sizes(self, image_size: int | None = None, patch_size: int | None = None) -> Sizes:
        """The sizes of a step, each the configured one where None.

        Raises:
            ValueError: the patch does not divide the image.
        """
        sizes = Sizes(
            self.img_size[0] if image_size is None else image_size,
            self.patch_size[0] if patch_size is None else patch_size,
        )
        if min(sizes) < 1 or sizes.image_size % sizes.patch_size:
            raise ValueError(
                f"a patch of {sizes.patch_size} pixels does not divide an image of {sizes.image_size} pixels: choose "
                "an image_size that is a multiple of patch_size"
            )
        return sizes


def normalize_patches(patches: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return ``(patches / 255 - mean) / std`` per channel, as float32 on the patches' device.

    ``patches`` is uint8 [B, K, P*P*3] with the channel running fastest. The arithmetic is float32 whatever the
    model's precision, for the constants of a bfloat16 model would be off by up to 0.4 %.
    """
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), patches.device)
    pixels = patches.unflatten(-1, (-1, len(std))).to(torch.float32)
    return pixels.mul_(scale).sub_(shift).flatten(-2)


@functools.cache
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The two float32 constants of ``normalize_patches``, one value a channel.

    Not buffers of the model, for a cast to bfloat16 casts its buffers too; and kept once made, for a copy to
    a GPU in every step would make the host wait for the GPU.
    """
    scale = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float32, device=device)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32, device=device)
    return scale, shift


def adopt(module: nn.Module, source: nn.Module) -> None:
    """Give ``module``, which must be fresh, everything that ``source`` is made of; the two share it afterwards."""
    nn.Module.__init__(module)
    module.__dict__.update(source.__dict__)
    module._modules = dict(source._modules)


class PatchModel(nn.Module):
    """A timm model whose forward takes kept patches and their places in the grid.

    Adopts the modules and parameters of ``vit``, which is not to be used on its own afterwards (the two share
    them). Everything behind the embedding (blocks, pooling, head, parameter groups, activation checkpointing)
    is timm's: each family's class stands before timm's own among its bases.

    Attributes beyond timm's: ``mean`` and ``std`` (of RGB values in [0, 1]), ``timm_name``, ``timm_args`` (the
    arguments with which ``timm.create_model(timm_name, **timm_args)`` builds the same architecture) and
    ``load_report`` (what pretrained weights filled in, or None).
    """

    timm_name: str
    timm_args: dict[str, Any]
    load_report: LoadReport | None
    # timm's own, the same in every family.
    embed_dim: int
    num_classes: int
    num_prefix_tokens: int
    patch_embed: KeptPatchEmbed
    cls_token: Tensor | None
    pos_embed: Tensor | None
    pos_drop: Any
    blocks: Any
    norm: Any
    grad_checkpointing: bool
    no_weight_decay: Callable[[], set[str]]
    get_classifier: Callable[[], nn.Module | tuple[nn.Module, ...]]
    reset_classifier: Callable[..., None]
    set_grad_checkpointing: Callable[[bool], None]
    forward_head: Callable[[Tensor], Tensor]

    def __init__(self, vit: nn.Module, *, mean: Sequence[float], std: Sequence[float]) -> None:
        adopt(self, vit)
        self.patch_embed = KeptPatchEmbed(cast(PatchEmbed, vit.patch_embed))
        self.mean = tuple(float(m) for m in mean)
        self.std = tuple(float(s) for s in std)
        self.timm_name, self.timm_args, self.load_report = "", {}, None

    def forward(
        self, patches: Tensor, ids_keep: Tensor, *, image_size: int | None = None, patch_size: int | None = None
    ) -> Tensor:
        """Classify images from their kept patches.

        Args:
            patches: uint8 [B, K, P*P*3], a patch's values in (row, column, channel) order, RGB.
            ids_keep: int32 or int64 [B, K], the raster index of each patch in the full grid. Ascending by
                custom; the logits do not depend on the order.
            image_size, patch_size: of the images that the patches are cut from and P, in pixels; None: as configured.
                The grid of ``ids_keep`` follows from them.

        Returns:
            Logits [B, num_classes] in the dtype of the parameters, or of autocast.

        Raises:
            ValueError: for another dtype or another shape, or sizes that do not fit one another.
        """
        return self.forward_head(self.forward_features(patches, ids_keep, image_size=image_size, patch_size=patch_size))

    def forward_features(
        self, patches: Tensor, ids_keep: Tensor, *, image_size: int | None = None, patch_size: int | None = None
    ) -> Tensor:
        """The final tokens [B, num_prefix_tokens + K, D] of kept patches; arguments as for ``forward``."""
        raise NotImplementedError

    def patch_embedding(
        self, *, image_size: int | None = None, patch_size: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the embedding of one patch is made of: kernel, bias and positions, attached to the parameters.

        Sizes as for ``forward``.

        Under ZeRO-3 the caller gathers ``patch_embed.proj.weight``, ``patch_embed.proj.bias`` and ``pos_embed`` before.

        Returns:
            The kernel [D, P*P*3] for normalised values in (row, column, channel) order; the bias [D], zeros
            where the model has none; and the positions [N, D] that are added to the embedded patches, or None
            where nothing is added (relative bias, or rotary positions only). Where the embedding has a norm of
            its own (AIMv2), the kernel and bias are those before that norm.
        """
        sizes, projection = self.patch_embed.sizes(image_size, patch_size), self.patch_embed.proj
        kernel, bias = projection.kernel(sizes.patch_size), projection.bias
        positions = None if self.pos_embed is None else self._patch_positions(sizes)
        return kernel, kernel.new_zeros(kernel.shape[0]) if bias is None else bias, positions

    def _patch_positions(self, sizes: Sizes) -> Tensor:
        """The rows [N, D] of the position table that belong to patches, for the grid of these sizes."""
        rows = cast(Tensor, self.pos_embed)[0, self._num_prefix_positions() :]
        return resample_positions(rows, self.patch_embed.grid_size[0], sizes.grid_size)

    def _embed(self, patches: Tensor, ids_keep: Tensor, sizes: Sizes) -> Tensor:
        """Prefix tokens and embedded patches [B, num_prefix_tokens + K, D], with their absolute positions if any.

        As timm does it: with ``no_embed_class`` the position table has rows for patches only, otherwise its
        first rows belong to the prefix tokens.
        """
        self._check_input(patches, ids_keep, sizes.patch_size)
        self._cast_key_biases()
        x = self.patch_embed(normalize_patches(patches, self.mean, self.std), sizes.patch_size)
        prefix, positions = self._prefix_tokens(), self.pos_embed
        if positions is not None:
            num_prefix_positions = self._num_prefix_positions()
            # F.embedding, because its backward is much faster on a CPU than that of indexing or gather.
            x = x + F.embedding(ids_keep, self._patch_positions(sizes))
            if num_prefix_positions:
                prefix = [torch.cat(prefix, dim=1) + positions[:, :num_prefix_positions]]
        return torch.cat([token.expand(x.shape[0], -1, -1) for token in prefix] + [x], dim=1)

    def _prefix_tokens(self) -> list[Tensor]:
        """Class and register tokens, [1, n, D] each, in timm's order."""
        tokens = (self.cls_token, getattr(self, "reg_token", None))
        return [cast(Tensor, token) for token in tokens if token is not None]

    def _num_prefix_positions(self) -> int:
        """How many of the position table's first rows belong to prefix tokens."""
        return 0 if getattr(self, "no_embed_class", False) else self.num_prefix_tokens

    def _cast_key_biases(self) -> None:
        """Bring the zeros that BEiT and EVA have for a bias of the keys to the dtype of their other biases.

        They are a buffer, and of a bf16 model DeepSpeed casts the parameters alone.
        """
        for block in self.blocks:
            zeros = getattr(block.attn, "k_bias", None)
            if zeros is not None and zeros.dtype != block.attn.q_bias.dtype:
                block.attn.k_bias = zeros.to(block.attn.q_bias.dtype)

    def _check_input(self, patches: Tensor, ids_keep: Tensor, patch_size: int) -> None:
        values = patch_size**2 * 3
        if patches.dtype != torch.uint8 or patches.ndim != 3 or patches.shape[2] != values:
            raise ValueError(
                f"patches must be uint8 [batch, kept, {values}] ({patch_size} x {patch_size} pixels x 3 channels), "
                f"but came as {patches.dtype} {list(patches.shape)}"
            )
        if ids_keep.dtype not in (torch.int32, torch.int64) or ids_keep.shape != patches.shape[:2]:
            raise ValueError(
                f"ids_keep must be int32 or int64 {list(patches.shape[:2])}, one raster index a patch, "
                f"but came as {ids_keep.dtype} {list(ids_keep.shape)}"
            )
