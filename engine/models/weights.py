"""Pretrained weights into a model, and a trained model out, both in timm's own formats."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import timm
import torch
from timm.models import beit, eva, vision_transformer
from timm.models._hub import save_for_hf
from torch import Tensor, nn

from engine.models.weight_files import read_weights
from pipeline.config import DataConfig

# What may stay at its initialisation: the parts behind the blocks, which a new task may bring anew.
CLASSIFIER_PREFIXES = ("head.", "head_dist.")
HEAD_PREFIXES = (*CLASSIFIER_PREFIXES, "fc_norm.", "norm.", "attn_pool.")
# Where the model has no place for a parameter of these, it is another model, not a leftover (a MAE decoder).
BACKBONE_PREFIXES = (
    *("blocks.", "patch_embed.", "norm_pre.", "rel_pos_bias.", "rope."),
    *("cls_token", "reg_token", "dist_token", "pos_embed"),
)
# What only pretraining needs. timm's conversions pass over some of it; the report must not.
PRETRAINING_PREFIXES = ("mask_token", "decoder", "lm_head.")
SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"
EXPORTED_FILES = ("model.safetensors", "config.json")
# Facts about where timm's weights came from, untrue of weights trained here.
ORIGIN_FIELDS = ("tag", "license", "description", "origin_url", "paper_name", "paper_ids", "notes")
# Recommendations of timm for its weights, which hold for no others.
TEST_FIELDS = ("test_input_size", "test_pool_size", "test_crop_pct", "label_offset")


@dataclass(frozen=True)
class LoadReport:
    """What pretrained weights did to a model, as parameter names.

    ``loaded`` includes ``resampled`` (positions, tables or patch kernel brought to another size). ``missing``,
    ``shape_mismatched`` and ``reset`` (a classifier that was not wanted) are left at their initialisation;
    ``unexpected`` are in the source only. ``place`` is where in the source the weights stand, such as
    ``teacher.backbone``, and ``others`` are the places of other sets that it holds for such a model.
    """

    source: str
    loaded: tuple[str, ...]
    resampled: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shape_mismatched: tuple[str, ...]
    reset: tuple[str, ...] = ()
    place: str = ""
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"pretrained weights from {self.source}: {len(self.loaded)} parameters loaded"]
        if self.resampled:
            lines[0] += f", resampled: {', '.join(self.resampled)}"
        if self.others:
            lines.append(
                f"  taken: {self.place or 'the plain names'}; the file also holds {', '.join(self.others)} "
                "(model.pretrained_key chooses)"
            )
        new = self.missing + self.shape_mismatched + self.reset
        if new:
            lines.append(f"  left at their initialisation: {_names(new)}")
        if self.unexpected:
            lines.append(f"  in the source only, not used: {_names(self.unexpected)}")
        return "\n".join(lines)


def load_pretrained(model: nn.Module, source: str, *, reset_head: bool = False, key: str | None = None) -> LoadReport:
    """Fill ``model`` in place with pretrained weights, positions, tables and patch kernels resampled to its sizes.

    Call it before the model goes to DeepSpeed, while every parameter is whole.

    Args:
        model: a ``PatchModel``, or a plain timm model of the same families with a ``timm_name``.
        source: ``timm`` (the published weights of the model's own timm name, through timm's cache or the
            network), ``local-dir:DIR`` (a folder as ``export_model`` or timm write it), or a ``.safetensors``,
            ``.pth``, ``.pth.tar``, ``.pt``, ``.bin`` or ``.ckpt`` file: timm's, MAE's (pretrained or fine-tuned),
            SimMIM's (likewise), or any whose names are timm's behind wrappers such as ``module.`` or ``teacher.``.
            Pickled files are read with ``weights_only=True`` and inert stand-ins for the classes they name, so
            no code from the file runs.
        reset_head: leave the classifier alone.
        key: which set of weights to take of a file that holds several, such as ``state_dict_ema`` or ``student``;
            None: the first in ``weight_sets.ORDER``.

    A classifier of another size keeps its initialisation. One of the same size is loaded, without ``reset_head``.

    Raises:
        FileNotFoundError: if the file or folder is not there.
        ValueError: for an unknown kind of source, an unreadable file, a key that it does not have, or weights of
            another architecture.
    """
    own = model.state_dict()
    found = read_weights(source, getattr(model, "timm_name", ""), own.keys(), key)
    state = found.state
    converted = _with_a_table_for_each_block(state, own)
    try:
        fitted = _fit(dict(converted), model)
    except (AssertionError, AttributeError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"the weights in {source} cannot be brought to this model's sizes: {error}") from error
    left_out = tuple(key for key in state if key not in fitted and key.startswith(PRETRAINING_PREFIXES))
    same = [key for key in own if key in fitted and fitted[key].shape == own[key].shape]
    reset = tuple(key for key in same if reset_head and key.startswith(CLASSIFIER_PREFIXES))
    loaded = tuple(key for key in same if key not in reset)
    report = LoadReport(
        source=source,
        loaded=loaded,
        resampled=tuple(key for key in loaded if key in converted and converted[key].shape != own[key].shape),
        missing=tuple(key for key in own if key not in fitted),
        unexpected=tuple(key for key in fitted if key not in own) + left_out + found.rest,
        shape_mismatched=tuple(key for key in own if key in fitted and key not in same),
        reset=reset,
        place=found.place,
        others=found.others,
    )
    _check_backbone(report, fitted, own)
    model.load_state_dict({key: fitted[key] for key in loaded}, strict=False)
    return report


def _with_a_table_for_each_block(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state``, and where it has one relative position bias for all blocks but the model one a block, a copy for each.

    So do BEiT and SimMIM, which pretrain with a shared table, when they fine-tune.
    """
    tables = [key for key in own if re.fullmatch(r"blocks\.\d+\.attn\.relative_position_bias_table", key)]
    if SHARED_TABLE not in state or SHARED_TABLE in own or not tables:
        return state
    rest = {key: value for key, value in state.items() if key != SHARED_TABLE}
    return rest | {key: state[SHARED_TABLE].clone() for key in tables}


def _fit(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """timm's own conversion of foreign names and sizes for the model's family."""
    if isinstance(model, beit.Beit):
        if SHARED_TABLE in state and model.rel_pos_bias is None:
            raise ValueError("they hold a relative position bias, the model has none (option use_rel_pos_bias)")
        return beit.checkpoint_filter_fn(state, model)
    if isinstance(model, eva.Eva):
        return eva.checkpoint_filter_fn(state, model)
    return vision_transformer.checkpoint_filter_fn(state, model, adapt_layer_scale=True)


def _check_backbone(report: LoadReport, fitted: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    if all(key.startswith(HEAD_PREFIXES) for key in report.loaded) and not report.shape_mismatched:
        raise ValueError(
            f"none of the model's backbone parameters is in {report.source}, which holds "
            f"{_names(report.unexpected)}: are these the weights of a Vision Transformer in timm's naming?"
        )
    faults = [
        f"{key} is {list(fitted[key].shape)} in the file, {list(own[key].shape)} in the model"
        for key in report.shape_mismatched
        if not key.startswith(CLASSIFIER_PREFIXES)
    ]
    faults += [f"{key} is not in the file" for key in report.missing if not key.startswith(HEAD_PREFIXES)]
    faults += [f"{key} is not in the model" for key in report.unexpected if key.startswith(BACKBONE_PREFIXES)]
    if faults:
        more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise ValueError(
            f"the weights in {report.source} belong to another architecture: {'; '.join(faults[:4])}{more}"
        )


def export_model(
    state_dict: Mapping[str, Tensor],
    folder: Path | str,
    *,
    timm_name: str,
    model_args: Mapping[str, Any],
    data: DataConfig,
    class_names: Sequence[str] | None,
) -> None:
    """Write ``model.safetensors`` and ``config.json``, from which plain timm builds the same classifier.

    Read it back with ``timm.create_model("local-dir:FOLDER", pretrained=True)``; it takes whole images.

    Args:
        state_dict: of a ``PatchModel``, all parameters whole, on any device.
        folder: made where it does not exist; the two files in it are replaced, each in one move, weights
            first.
        timm_name, model_args: ``PatchModel.timm_name`` and ``PatchModel.timm_args``.
        data: its number of classes, and validation's preprocessing, as ``timm_preprocessing`` says it.
        class_names: one for each class, in the order of the labels, or None.

    Raises:
        ValueError: if the state dict is not that of the described model, or names and classes differ in
            number.
    """
    if class_names is not None and len(class_names) != data.num_classes:
        raise ValueError(f"{len(class_names)} class names for {data.num_classes} classes: give one for each")
    with torch.device("meta"):
        vit = timm.create_model(timm_name, num_classes=data.num_classes, **model_args)
    pretrained_cfg = cast(dict[str, Any], vit.pretrained_cfg)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state_dict.items()}
    try:
        vit.load_state_dict(tensors, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"these weights are not those of {timm_name} with {dict(model_args)}: {error}") from error
    for field in (*ORIGIN_FIELDS, *TEST_FIELDS):
        pretrained_cfg.pop(field, None)
    # What later releases of timm see by themselves is said as well, for those that see nothing.
    pretrained_cfg.update(timm_preprocessing(data), num_classes=data.num_classes, custom_load=False)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        save_for_hf(
            vit,
            scratch,
            model_config={"label_names": list(class_names)} if class_names is not None else None,
            model_args=dict(model_args),
            safe_serialization=True,
        )
        for name in EXPORTED_FILES:
            os.replace(Path(scratch) / name, folder / name)


def timm_preprocessing(data: DataConfig) -> dict[str, Any]:
    """Validation's way from an image to the model, in the keys of timm's ``pretrained_cfg``.

    timm's evaluation transform does the same as the loader then, up to rounding: resize the shorter side to
    ``floor(image_size / crop_pct)``, bilinear with antialiasing, and crop the centre.
    """
    return {
        "input_size": (3, data.image_size, data.image_size),
        "interpolation": "bilinear",
        "crop_pct": data.val_crop_fraction,
        "crop_mode": "center",
        "mean": tuple(data.mean),
        "std": tuple(data.std),
    }


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6]) or "nothing"
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
