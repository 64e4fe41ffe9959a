"""timm Vision Transformers that start from kept patches instead of from an image.

The patch convolution of a ViT does not overlap: applied to one patch it is a plain linear map. So a model can
take the kept patches themselves, place each one by its raster index in the full grid, and run timm's own
blocks on a shorter sequence, with no mask and no padding. With every patch kept the logits are timm's on the
full image.

Parameters, their names and shapes are timm's, so a state dict of `PatchViT` is an ordinary timm checkpoint.
"""

import difflib
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models import checkpoint_seq, is_model, model_entrypoint
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from engine.weights import LoadReport, load_pretrained

PLAIN_VIT_MODULES = ("timm.models.vision_transformer", "timm.models.deit")
# Arguments of timm's constructor that a configuration may set: facts about the architecture.
MODEL_OPTIONS = (
    *("embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "proj_bias", "qk_norm", "init_values"),
    *("class_token", "reg_tokens", "pos_embed", "no_embed_class"),
    *("pre_norm", "final_norm", "fc_norm", "global_pool", "pool_include_prefix"),
    *("pos_drop_rate", "proj_drop_rate", "attn_drop_rate"),
)


class PatchProjection(nn.Module):
    """The patch convolution's weight, applied to flat patches as a linear map.

    `weight` keeps the convolution's shape [D, 3, P, P] and `bias` is [D] or None. They are used only inside
    this module's own forward, which is where ZeRO-3 gathers them.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = conv.weight
        self.bias = cast(nn.Parameter | None, conv.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """Embed patches [B, K, P*P*3] in (row, column, channel) order as [B, K, D] in the weight's dtype."""
        kernel = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches.to(self.weight.dtype), kernel, self.bias)


class KeptPatchEmbed(nn.Module):
    """Stands in for timm's `PatchEmbed`: the same parameters and grid, but it takes kept patches."""

    def __init__(self, embed: PatchEmbed) -> None:
        super().__init__()
        self.img_size: tuple[int, int] = embed.img_size
        self.patch_size: tuple[int, int] = embed.patch_size
        self.grid_size: tuple[int, int] = embed.grid_size
        self.num_patches: int = embed.num_patches
        self.proj = PatchProjection(embed.proj)
        self.norm = embed.norm

    def forward(self, patches: Tensor) -> Tensor:
        """Embed normalised patches [B, K, P*P*3] as [B, K, D]."""
        return self.norm(self.proj(patches))


def normalize_patches(patches: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return `(patches / 255 - mean) / std` per channel, as float32 on the patches' device.

    `patches` is uint8 [B, K, P*P*3] with the channel running fastest. The arithmetic is float32 whatever the
    model's precision, for the constants of a bfloat16 model would be off by up to 0.4 %.
    """
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), patches.device)
    pixels = patches.unflatten(-1, (-1, len(std))).to(torch.float32)
    return pixels.mul_(scale).sub_(shift).flatten(-2)


@functools.cache
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The two float32 constants of `normalize_patches`, one value a channel.

    Not buffers of the model, for a cast to bfloat16 casts its buffers too; and kept once made, for a copy to
    a GPU in every step would make the host wait for the GPU.
    """
    scale = torch.tensor([1 / (255 * s) for s in std], dtype=torch.float32, device=device)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32, device=device)
    return scale, shift


class PatchViT(VisionTransformer):
    """A timm `VisionTransformer` whose forward takes kept patches and their places in the grid.

    Adopts the modules and parameters of `vit`, which is not to be used on its own afterwards (the two share
    them). Everything behind the embedding (blocks, pooling, head, parameter groups, activation checkpointing)
    is timm's.

    Attributes beyond timm's: `mean` and `std` (of RGB values in [0, 1]), `timm_name`, `timm_args` (the
    arguments with which `timm.create_model(timm_name, **timm_args)` builds the same architecture) and
    `load_report` (what pretrained weights filled in, or None).
    """

    timm_name: str
    timm_args: dict[str, Any]
    load_report: LoadReport | None

    def __init__(self, vit: VisionTransformer, *, mean: Sequence[float], std: Sequence[float]) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(vit.__dict__)
        self._modules = dict(vit._modules)
        self.patch_embed = KeptPatchEmbed(vit.patch_embed)
        self.mean = tuple(float(m) for m in mean)
        self.std = tuple(float(s) for s in std)
        self.timm_name, self.timm_args, self.load_report = "", {}, None

    def forward(self, patches: Tensor, ids_keep: Tensor) -> Tensor:
        """Classify images from their kept patches.

        Args:
            patches: uint8 [B, K, P*P*3], a patch's values in (row, column, channel) order, RGB.
            ids_keep: int32 or int64 [B, K], the raster index of each patch in the full grid. Ascending by
                custom; the logits do not depend on the order.

        Returns:
            Logits [B, num_classes] in the dtype of the parameters.

        Raises:
            ValueError: for another dtype or another shape.
        """
        return self.forward_head(self.forward_features(patches, ids_keep))

    def forward_features(self, patches: Tensor, ids_keep: Tensor) -> Tensor:
        """The final tokens [B, num_prefix_tokens + K, D] of kept patches; arguments as for `forward`."""
        self._check_input(patches, ids_keep)
        x = self.patch_embed(normalize_patches(patches, self.mean, self.std))
        x = self._add_positions_and_prefix(x, ids_keep)
        x = self.norm_pre(x)
        x = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)
        return self.norm(x)

    def patch_embedding(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """How a normalised patch is embedded and placed.

        Returns:
            Kernel [D, P*P*3] in (row, column, channel) order, bias [D], and what is added at each place of the grid,
            [N, D] or None. Under ZeRO-3 the parameters have to be gathered.
        """
        conv = self.patch_embed.proj
        kernel = conv.weight.permute(0, 2, 3, 1).flatten(1)
        bias = kernel.new_zeros(len(kernel)) if conv.bias is None else conv.bias
        if self.pos_embed is None:
            return kernel, bias, None
        return kernel, bias, self.pos_embed[0, 0 if self.no_embed_class else self.num_prefix_tokens :]

    def _add_positions_and_prefix(self, x: Tensor, ids_keep: Tensor) -> Tensor:
        """Give embedded patches [B, K, D] their positions, and put class and register tokens before them.

        As timm does it: without positions there is no position dropout either; with `no_embed_class` the
        position table has rows for patches only, otherwise its first rows belong to the prefix tokens.
        """
        prefix: list[Tensor] = [token for token in (self.cls_token, self.reg_token) if token is not None]
        if self.pos_embed is not None:
            num_prefix_positions = 0 if self.no_embed_class else self.num_prefix_tokens
            prefix_positions = self.pos_embed[:, :num_prefix_positions]
            # F.embedding, because its backward is much faster on a CPU than that of indexing or gather.
            x = x + F.embedding(ids_keep, self.pos_embed[0, num_prefix_positions:])
            if num_prefix_positions:
                prefix = [torch.cat(prefix, dim=1) + prefix_positions]
        x = torch.cat([token.expand(x.shape[0], -1, -1) for token in prefix] + [x], dim=1)
        return x if self.pos_embed is None else self.pos_drop(x)

    def _check_input(self, patches: Tensor, ids_keep: Tensor) -> None:
        height, width = self.patch_embed.patch_size
        values = height * width * 3
        if patches.dtype != torch.uint8 or patches.ndim != 3 or patches.shape[2] != values:
            raise ValueError(
                f"patches must be uint8 [batch, kept, {values}] ({height} x {width} pixels x 3 channels), "
                f"but came as {patches.dtype} {list(patches.shape)}"
            )
        if ids_keep.dtype not in (torch.int32, torch.int64) or ids_keep.shape != patches.shape[:2]:
            raise ValueError(
                f"ids_keep must be int32 or int64 {list(patches.shape[:2])}, one raster index a patch, "
                f"but came as {ids_keep.dtype} {list(ids_keep.shape)}"
            )


def build_model(
    name: str,
    *,
    image_size: int,
    patch_size: int,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    drop_path: float = 0.0,
    drop_rate: float = 0.0,
    pretrained: str | None = None,
    checkpoint_activations: bool = False,
    options: Mapping[str, Any] | None = None,
) -> PatchViT:
    """Build a model that takes kept patches from the name of a timm Vision Transformer.

    Args:
        name: a timm model of the plain ViT family (ViT, DeiT, DeiT-III, DINOv2, CLIP towers, ...), with or
            without a weights tag, such as `vit_base_patch16_224.augreg_in21k`.
        image_size, patch_size: in pixels, both square; they may differ from those in the name.
        num_classes: outputs of the classifier.
        mean, std: of the R, G and B values, in [0, 1].
        drop_path, drop_rate: stochastic depth of the last block, and dropout before the classifier.
        pretrained: where to take weights from, as `engine.weights.load_pretrained` reads it; None leaves
            timm's initialisation (drawn from torch's global generator).
        checkpoint_activations: compute the blocks' activations again in the backward pass instead of storing
            them.
        options: further constructor arguments of timm's ViT, those in `MODEL_OPTIONS`.

    Under `torch.device("meta")` no weight is allocated, which suffices for counting FLOPs.

    Raises:
        ValueError: for an unknown name, another model family, a patch that does not divide the image, an
            option that does not exist or does not fit, or weights that do not fit.
        FileNotFoundError: if `pretrained` names a file that is not there.
    """
    options = dict(options or {})
    _check_name(name)
    _check_options(options)
    if patch_size < 1 or image_size < 1 or image_size % patch_size:
        raise ValueError(
            f"a patch of {patch_size} pixels does not divide an image of {image_size} pixels: "
            f"choose an image size that is a multiple of {patch_size}, or another patch size"
        )
    if num_classes < 1:
        raise ValueError(f"the model needs at least 1 class, got num_classes = {num_classes}")
    for what, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or (what == "std" and min(values) <= 0):
            raise ValueError(f"{what} takes 3 values, one for each of R, G, B (std above 0), got {list(values)}")
    for what, rate in (("drop_path", drop_path), ("drop_rate", drop_rate)):
        if not 0 <= rate < 1:
            raise ValueError(f"{what} must lie in [0, 1), got {rate}")
    timm_args = {"img_size": image_size, "patch_size": patch_size, **options}
    try:
        vit = timm.create_model(
            name, num_classes=num_classes, drop_path_rate=drop_path, drop_rate=drop_rate, **timm_args
        )
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"timm cannot build '{name}' with {timm_args}: {error}") from error
    assert type(vit) is VisionTransformer, type(vit)
    assert type(vit.patch_embed) is PatchEmbed, type(vit.patch_embed)
    if not vit.global_pool:
        raise ValueError(f"'{name}' pools no tokens for its classifier: set the option global_pool to token or avg")
    model = PatchViT(vit, mean=mean, std=std)
    model.timm_name, model.timm_args = name, timm_args
    model.set_grad_checkpointing(checkpoint_activations)
    if pretrained is not None:
        model.load_report = load_pretrained(model, pretrained)
    return model


def _is_plain_vit(name: str) -> bool:
    """Whether a timm name builds a plain ViT behind one patch convolution (not a hybrid behind a ConvNet)."""
    build = model_entrypoint(name)
    plain = inspect.signature(build).return_annotation is VisionTransformer
    return plain and build.__module__ in PLAIN_VIT_MODULES


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        known = [known for known in timm.list_models() if _is_plain_vit(known)]
        near = difflib.get_close_matches(architecture, known, n=3, cutoff=0.5) or ["vit_base_patch16_224"]
        raise ValueError(f"timm has no model '{name}'; the nearest ones that work here: {', '.join(near)}")
    if not _is_plain_vit(architecture):
        family = model_entrypoint(architecture).__module__
        raise ValueError(
            f"'{name}' is of another family ({family}): only timm's plain ViT and DeiT models can start from "
            "kept patches, such as vit_base_patch16_224 or deit_small_patch16_224"
        )
    tags = [known.partition(".")[2] for known in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        raise ValueError(f"timm has no weights '{tag}' for {architecture}; it has: {', '.join(tags) or 'none'}")


def _check_options(options: Mapping[str, Any]) -> None:
    for option in options:
        if option == "patch_drop_rate":
            raise ValueError(
                "patch_drop_rate has no place here: patches are dropped in the data pipeline, by the schedule"
            )
        if option not in MODEL_OPTIONS:
            near = difflib.get_close_matches(option, MODEL_OPTIONS, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known options: {', '.join(MODEL_OPTIONS)}"
            raise ValueError(f"unknown model option '{option}'; {hint}")


def vit_forward_flops(
    *,
    num_kept: int,
    num_prefix: int,
    embed_dim: int,
    depth: int,
    mlp_ratio: float,
    patch_dim: int,
    num_classes: int,
) -> int:
    """Floating-point operations of one image's forward pass, two for each multiply-add of a matrix product.

    With T = num_kept + num_prefix tokens of width D, each of the `depth` blocks costs 4 T D^2 multiply-adds
    for the query, key, value and output projections, 2 T^2 D for attention scores and their weighted sums,
    and 2 mlp_ratio T D^2 for the MLP. Embedding adds num_kept * patch_dim * D, the classifier D *
    num_classes. Norms, activations and softmax are left out. The number of heads does not matter.
    """
    tokens = num_kept + num_prefix
    mlp = round(2 * mlp_ratio * embed_dim**2) * tokens
    block = 4 * tokens * embed_dim**2 + 2 * tokens**2 * embed_dim + mlp
    return 2 * (num_kept * patch_dim * embed_dim + depth * block + embed_dim * num_classes)


def training_flops_per_image(model: PatchViT, num_kept: int) -> int:
    """Floating-point operations of one training step, for one image with `num_kept` patches.

    Three forward passes, by the usual estimate that the backward pass costs two. Works on a model without
    weights (meta device). Attention pooling before the head, where a model has it, is not counted.
    """
    dim = model.embed_dim
    linears = [layer for layer in model.blocks[0].modules() if isinstance(layer, nn.Linear)]
    # From layer sizes, not parameters (ZeRO-3 empties those). A gated MLP counts as its equivalent ratio.
    block_weights = sum(layer.in_features * layer.out_features for layer in linears)
    height, width = model.patch_embed.patch_size
    return 3 * vit_forward_flops(
        num_kept=num_kept,
        num_prefix=model.num_prefix_tokens,
        embed_dim=dim,
        depth=len(model.blocks),
        mlp_ratio=(block_weights - 4 * dim**2) / (2 * dim**2),
        patch_dim=height * width * 3,
        num_classes=model.num_classes,
    )
