"""Pretrained weights into a model, and a trained model out, both in timm's own formats."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import timm
import torch
from timm.models import load_state_dict
from timm.models._hub import save_for_hf
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

# What may stay at its initialisation: the parts behind the blocks, which a new task may bring anew.
HEAD_PREFIXES = ("head.", "fc_norm.", "norm.", "attn_pool.")
# Where the model has no place for a parameter of these, it is another model, not a leftover (a MAE decoder).
BACKBONE_PREFIXES = ("blocks.", "patch_embed.", "norm_pre.", "cls_token", "reg_token", "pos_embed")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# Facts about where timm's weights came from, untrue of weights trained here.
ORIGIN_FIELDS = ("tag", "license", "description", "origin_url", "paper_name", "paper_ids", "notes")


@dataclass(frozen=True)
class LoadReport:
    """What pretrained weights did to a model, as parameter names.

    `loaded` includes `resampled` (positions or patch kernel brought to another size). `missing` and
    `shape_mismatched` are left at their initialisation; `unexpected` are in the source only.
    """

    source: str
    loaded: tuple[str, ...]
    resampled: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shape_mismatched: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"pretrained weights from {self.source}: {len(self.loaded)} parameters loaded"]
        if self.resampled:
            lines[0] += f", resampled: {', '.join(self.resampled)}"
        new = self.missing + self.shape_mismatched
        if new:
            lines.append(f"  left at their initialisation: {_names(new)}")
        if self.unexpected:
            lines.append(f"  in the source only, not used: {_names(self.unexpected)}")
        return "\n".join(lines)


def load_pretrained(model: VisionTransformer, source: str) -> LoadReport:
    """Fill `model` in place with pretrained weights, positions and patch kernels resampled to its sizes.

    Call it before the model goes to DeepSpeed, while every parameter is whole.

    Args:
        model: a `PatchViT`, or a plain timm ViT with a `timm_name`.
        source: `timm` (the published weights of the model's own timm name, through timm's cache or the
            network), `local-dir:DIR` (a folder as `export_model` or timm write it), or a `.safetensors`,
            `.pth`, `.pt` or `.bin` file. Pickled files are read with `weights_only=True`, which runs no code
            from the file.

    A classifier of another size keeps its initialisation. One of the same size is loaded.

    Raises:
        FileNotFoundError: if the file or folder is not there.
        ValueError: for an unknown kind of source, an unreadable file, or weights of another architecture.
    """
    state = _read_source(model, source)
    state = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    try:
        fitted = checkpoint_filter_fn(state, model, adapt_layer_scale=True)
    except (AssertionError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"the weights in {source} cannot be brought to this model's sizes: {error}") from error
    own = model.state_dict()
    same = tuple(key for key in own if key in fitted and fitted[key].shape == own[key].shape)
    report = LoadReport(
        source=source,
        loaded=same,
        resampled=tuple(key for key in same if key in state and state[key].shape != own[key].shape),
        missing=tuple(key for key in own if key not in fitted),
        unexpected=tuple(key for key in fitted if key not in own),
        shape_mismatched=tuple(key for key in own if key in fitted and key not in same),
    )
    _check_backbone(report, fitted, own)
    model.load_state_dict({key: fitted[key] for key in same}, strict=False)
    return report


def _check_backbone(report: LoadReport, fitted: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    if all(key.startswith(HEAD_PREFIXES) for key in report.loaded) and not report.shape_mismatched:
        raise ValueError(
            f"none of the model's backbone parameters is in {report.source}, which holds "
            f"{_names(report.unexpected)}: are these the weights of a Vision Transformer in timm's naming?"
        )
    faults = [
        f"{key} is {list(fitted[key].shape)} in the file, {list(own[key].shape)} in the model"
        for key in report.shape_mismatched
        if not key.startswith("head.")
    ]
    faults += [f"{key} is not in the file" for key in report.missing if not key.startswith(HEAD_PREFIXES)]
    faults += [f"{key} is not in the model" for key in report.unexpected if key.startswith(BACKBONE_PREFIXES)]
    if faults:
        more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise ValueError(
            f"the weights in {report.source} belong to another architecture: {'; '.join(faults[:4])}{more}"
        )


def _read_source(model: VisionTransformer, source: str) -> dict[str, Any]:
    if source == "timm":
        return _published_weights(model)
    kind, _, folder = source.partition(":")
    if kind == "local-dir":
        files = [Path(folder) / name for name in WEIGHT_FILES]
        path = next((file for file in files if file.is_file()), None)
        if path is None:
            raise FileNotFoundError(f"no weights in {folder}: expected {' or '.join(WEIGHT_FILES)} there")
    else:
        path = Path(source)
        if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
            raise ValueError(
                f"unknown source of pretrained weights '{source}': give timm, local-dir:DIR, "
                "or a .safetensors, .pth, .pt or .bin file"
            )
        if not path.is_file():
            raise FileNotFoundError(f"no pretrained weights at {path}")
    try:
        return load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # safetensors, zip and pickle readers each raise their own kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{path} cannot be read as plain weights (files that need code to be run are refused): {reason}"
        ) from error


def _published_weights(model: VisionTransformer) -> dict[str, Any]:
    """The state dict of the model's own timm name, at the sizes in which it was published."""
    name = getattr(model, "timm_name", "")
    if not timm.is_model_pretrained(name):
        tags = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        hint = f"it has weights for {', '.join(tags)}" if tags else "set pretrained to a file, or leave it out"
        raise ValueError(f"timm publishes no weights for '{name}'; {hint}")
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # network, cache and hub failures come in many classes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"timm could not fetch the weights of '{name}': {reason} "
            "(without a network, download them elsewhere and set pretrained to the file)"
        ) from error


def export_model(
    state_dict: Mapping[str, Tensor],
    folder: Path | str,
    *,
    timm_name: str,
    model_args: Mapping[str, Any],
    num_classes: int,
    class_names: Sequence[str] | None,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int,
) -> None:
    """Write `model.safetensors` and `config.json`, from which plain timm builds the same classifier.

    Read it back with `timm.create_model("local-dir:FOLDER", pretrained=True)`; it takes whole images.

    Args:
        state_dict: of a `PatchViT`, all parameters whole, on any device.
        folder: made where it does not exist; the two files in it are replaced, each in one move, weights
            first.
        timm_name, model_args: `PatchViT.timm_name` and `PatchViT.timm_args`.
        class_names: one for each class, in the order of the labels, or None.
        mean, std, image_size: the preprocessing that the weights were trained with.

    Raises:
        ValueError: if the state dict is not that of the described model, or names and classes differ in
            number.
    """
    if class_names is not None and len(class_names) != num_classes:
        raise ValueError(f"{len(class_names)} class names for {num_classes} classes: give one for each")
    with torch.device("meta"):
        vit = timm.create_model(timm_name, num_classes=num_classes, **model_args)
    pretrained_cfg = cast(dict[str, Any], vit.pretrained_cfg)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state_dict.items()}
    try:
        vit.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"these weights are not those of {timm_name} with {dict(model_args)}: {error}") from error
    for field in ORIGIN_FIELDS:
        pretrained_cfg.pop(field, None)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        save_for_hf(
            vit,
            scratch,
            model_config={"label_names": list(class_names)} if class_names is not None else None,
            safe_serialization=True,
            data_config={
                "input_size": (3, image_size, image_size),
                "mean": tuple(mean),
                "std": tuple(std),
            },
        )
        for name in ("model.safetensors", "config.json"):
            os.replace(Path(scratch) / name, folder / name)


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6]) or "nothing"
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
