"""Building a patch model from the name of a timm Vision Transformer, and counting its FLOPs."""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import timm
from timm.layers import PatchEmbed, trunc_normal_
from timm.models import is_model, model_entrypoint
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from engine.models.patch_beit import BEIT_OPTIONS, PatchBeit
from engine.models.patch_embed import PatchModel
from engine.models.patch_eva import EVA_OPTIONS, PatchEva
from engine.models.patch_vit import DISTILLED_OPTIONS, VIT_OPTIONS, PatchDistilledViT, PatchViT
from engine.models.weights import load_pretrained

# timm's class -> the class that starts from patches, and the arguments of timm's constructor that a configuration
# may set: facts about the architecture.
FAMILIES: dict[type[nn.Module], tuple[type[PatchModel], tuple[str, ...]]] = {
    VisionTransformer: (PatchViT, VIT_OPTIONS),
    VisionTransformerDistilled: (PatchDistilledViT, DISTILLED_OPTIONS),
    Beit: (PatchBeit, BEIT_OPTIONS),
    Eva: (PatchEva, EVA_OPTIONS),
}
# Elsewhere timm builds these classes behind a ConvNet.
FAMILY_MODULES = ("timm.models.vision_transformer", "timm.models.deit", "timm.models.beit", "timm.models.eva")


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
    pretrained_key: str | None = None,
    reset_head: bool = False,
    head_init_std: float | None = None,
    checkpoint_activations: bool = False,
    options: Mapping[str, Any] | None = None,
) -> PatchModel:
    """Build a model that takes kept patches from the name of a timm Vision Transformer.

    Args:
        name: a timm model of the plain ViT family (ViT, DeiT, DeiT-III, DINOv2, CLIP towers, ...), a distilled
            DeiT, or one of the BEiT or EVA families (BEiT, BEiT v2; EVA, EVA-02, DINOv3, ...), with or without
            a weights tag, such as ``vit_base_patch16_224.augreg_in21k``.
        image_size, patch_size: in pixels, both square; they may differ from those in the name.
        num_classes: outputs of the classifier.
        mean, std: of the R, G and B values, in [0, 1].
        drop_path, drop_rate: stochastic depth of the last block, and dropout before the classifier.
        pretrained: where to take weights from, as ``engine.models.weights.load_pretrained`` reads it; None leaves
            timm's initialisation (drawn from torch's global generator).
        pretrained_key: which set of weights to take of a file that holds several; None: as ``load_pretrained`` chooses.
        reset_head: leave the classifier at its initialisation even where the weights hold one of its size.
        head_init_std: initialise the classifier's weight from a truncated normal of this standard deviation, its
            bias with zeros; None is timm's way. Weights that hold a classifier of its size still replace it,
            unless ``reset_head`` is set. MAE's authors fine-tune from 2e-5.
        checkpoint_activations: compute the blocks' activations again in the backward pass instead of storing
            them.
        options: further constructor arguments of timm's class, those that ``FAMILIES`` lists for it.

    Under ``torch.device("meta")`` no weight is allocated, which suffices for counting FLOPs.

    Raises:
        ValueError: for an unknown name, another model family, a patch that does not divide the image, an
            option that does not exist or does not fit, or weights that do not fit.
        FileNotFoundError: if ``pretrained`` names a file that is not there.
    """
    options = dict(options or {})
    family = _check_name(name)
    patch_model, known_options = FAMILIES[family]
    _check_options(options, known_options)
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
    if head_init_std is not None and head_init_std < 0:
        raise ValueError(f"head_init_std must be at least 0, or be left out, got {head_init_std}")
    timm_args = {"img_size": image_size, "patch_size": patch_size, **options}
    try:
        vit = timm.create_model(
            name, num_classes=num_classes, drop_path_rate=drop_path, drop_rate=drop_rate, **timm_args
        )
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error) or "timm refuses them without a reason"
        raise ValueError(f"timm cannot build '{name}' with {timm_args}: {reason}") from error
    assert type(vit) is family, type(vit)
    assert type(vit.patch_embed) is PatchEmbed, type(vit.patch_embed)
    if not vit.global_pool:
        raise ValueError(f"'{name}' pools no tokens for its classifier: set the option global_pool to token or avg")
    model = patch_model(vit, mean=mean, std=std)
    model.timm_name, model.timm_args = name, timm_args
    model.set_grad_checkpointing(checkpoint_activations)
    if head_init_std is not None:
        for classifier in classifiers(model):
            trunc_normal_(classifier.weight, std=head_init_std)
            nn.init.zeros_(classifier.bias)
    if pretrained is not None:
        model.load_report = load_pretrained(model, pretrained, reset_head=reset_head, key=pretrained_key)
    return model


def configurable_options(name: str) -> tuple[str, ...]:
    """The arguments of timm's constructor that ``build_model`` takes as ``options`` for the model of this name.

    Raises:
        ValueError: for an unknown name or another model family.
    """
    return FAMILIES[_check_name(name)][1]


def classifiers(model: PatchModel) -> tuple[nn.Linear, ...]:
    """The model's linear classifiers: one, or two in a distilled model."""
    found = model.get_classifier()
    layers = found if isinstance(found, tuple) else (found,)
    assert all(isinstance(layer, nn.Linear) for layer in layers), layers
    return layers  # type: ignore[return-value]


def _family(name: str) -> type[nn.Module] | None:
    """The timm class that a name builds, if it is one that can start from patches."""
    build = model_entrypoint(name)
    built = inspect.signature(build).return_annotation
    return built if built in FAMILIES and build.__module__ in FAMILY_MODULES else None


def _check_name(name: str) -> type[nn.Module]:
    """The timm class behind ``name``; ValueError if there is none, or none that can start from patches."""
    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        known = [known for known in timm.list_models() if _family(known)]
        near = difflib.get_close_matches(architecture, known, n=3, cutoff=0.5) or ["vit_base_patch16_224"]
        raise ValueError(f"timm has no model '{name}'; the nearest ones that work here: {', '.join(near)}")
    family = _family(architecture)
    if family is None:
        raise ValueError(
            f"'{name}' is of another family ({model_entrypoint(architecture).__module__}) and cannot start from kept "
            "patches: timm's plain ViT, DeiT, BEiT and EVA models can, such as vit_base_patch16_224, "
            "deit_small_patch16_224, beit_base_patch16_224, eva02_tiny_patch14_224 or vit_small_patch16_dinov3"
        )
    tags = [known.partition(".")[2] for known in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        raise ValueError(f"timm has no weights '{tag}' for {architecture}; it has: {', '.join(tags) or 'none'}")
    return family


def _check_options(options: Mapping[str, Any], known: Sequence[str]) -> None:
    for option in options:
        if option == "patch_drop_rate" and option not in known:
            raise ValueError(
                "patch_drop_rate is for plain ViTs alone, to compare with; the schedule drops patches in the pipeline"
            )
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known options: {', '.join(known)}"
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

    With T = num_kept + num_prefix tokens of width D, each of the ``depth`` blocks costs 4 T D^2 multiply-adds
    for the query, key, value and output projections, 2 T^2 D for attention scores and their weighted sums,
    and 2 mlp_ratio T D^2 for the MLP. Embedding adds num_kept * patch_dim * D, the classifier D *
    num_classes. Norms, activations and softmax are left out. The number of heads does not matter.
    """
    tokens = num_kept + num_prefix
    mlp = round(2 * mlp_ratio * embed_dim**2) * tokens
    block = 4 * tokens * embed_dim**2 + 2 * tokens**2 * embed_dim + mlp
    return 2 * (num_kept * patch_dim * embed_dim + depth * block + embed_dim * num_classes)


def training_flops_per_image(model: PatchModel, num_kept: int, patch_size: int | None = None) -> int:
    """Floating-point operations of one training step, for one image with ``num_kept`` patches.

    Three forward passes, by the usual estimate that the backward pass costs two. Works on a model without
    weights (meta device). Attention pooling before the head, where a model has it, is not counted, nor is
    reading positions or attention biases, or resampling parameters for other sizes, which is done once for a batch.

    Args:
        patch_size: of the patches, in pixels; None: the configured.
    """
    dim, depth = model.embed_dim, len(model.blocks)
    linears = [layer for layer in model.blocks.modules() if isinstance(layer, nn.Linear)]
    # From layer sizes, not parameters (ZeRO-3 empties those). A gated MLP counts as its equivalent ratio.
    block_weights = sum(layer.in_features * layer.out_features for layer in linears) / depth
    side = patch_size or model.patch_embed.patch_size[0]
    return 3 * vit_forward_flops(
        num_kept=num_kept,
        num_prefix=model.num_prefix_tokens,
        embed_dim=dim,
        depth=depth,
        mlp_ratio=(block_weights - 4 * dim**2) / (2 * dim**2),
        patch_dim=side**2 * 3,
        num_classes=model.num_classes * len(classifiers(model)),
    )
