"""An exported model: what its folder says of it, and the model."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.models.build import build_model, configurable_options
from engine.models.patch_embed import PatchModel
from engine.models.weights import EXPORTED_FILES
from pipeline.config import DataConfig
from pipeline.shards.classes import readable

_WHAT_LOADS = "give a run's folder, such as runs/fashion_mnist, or an exported model's, such as its model/"


def exported_model(folder: Path) -> tuple[PatchModel, DataConfig, list[str] | None]:
    """The model in a folder that ``engine.models.weights.export_model`` wrote, its preprocessing, its class names.

    Raises:
        ValueError, OSError: its ``config.json`` or its weights cannot be used.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; {_WHAT_LOADS}")
    lost = [name for name in EXPORTED_FILES if not (folder / name).is_file()]
    if len(lost) == len(EXPORTED_FILES):
        raise ValueError(
            f"{folder} is no run folder and no exported model: it holds neither config.yaml nor "
            f"{' and '.join(EXPORTED_FILES)}; {_WHAT_LOADS}"
        )
    if lost:
        raise ValueError(f"the exported model in {folder} is not whole: it holds no {lost[0]}; copy it again")
    path = folder / "config.json"
    try:
        description = _described(path)
        name, args = description["architecture"], description["model_args"]
        data = _data(folder, description)
        known = configurable_options(name)
        model = build_model(
            name,
            image_size=data.image_size,
            patch_size=data.patch_size,
            num_classes=data.num_classes,
            mean=data.mean,
            std=data.std,
            options={key: value for key, value in args.items() if key in known},
            pretrained=f"local-dir:{folder}",
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, ValidationError) as error:
        reason = " ".join(repr(error).split())
        raise ValueError(f"{path} does not describe a model as this project exports it: {reason}") from None
    check_all_loaded(model)
    return model, data, class_names(folder, model.num_classes)


def class_names(folder: Path, num_classes: int) -> list[str] | None:
    """The names of a model's classes in the order of its outputs, as its export tells them; None where it does not.

    Raises:
        ValueError, OSError: ``config.json`` in the folder cannot be read, or names another number of classes.
    """
    path = folder / "config.json"
    try:
        names = _described(path).get("label_names")
        names = None if names is None else [readable(name) for name in names]
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    if names is not None and len(names) != num_classes:
        raise ValueError(f"{path}: label_names holds {len(names)} names, but the model has {num_classes} classes")
    return names


def check_all_loaded(model: PatchModel) -> None:
    """Fine-tuning may start with a new classifier, but a model that answers has to be whole. Raises ValueError."""
    report = model.load_report
    assert report is not None
    left_out = (*report.missing, *report.shape_mismatched)
    if left_out:
        raise ValueError(
            f"the weights in {report.source} do not fill the model as it is described: {', '.join(left_out)} would "
            "stay random; leave data and model as they were in training"
        )


def _described(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _data(folder: Path, description: dict[str, Any]) -> DataConfig:
    """Validation's preprocessing as ``timm_preprocessing`` has written it. Where training images lay is not known."""
    preprocessing = description["pretrained_cfg"]
    return DataConfig(
        train=folder,
        val=folder,
        num_classes=description["num_classes"],
        image_size=preprocessing["input_size"][1],
        patch_size=description["model_args"]["patch_size"],
        mean=preprocessing["mean"],
        std=preprocessing["std"],
        val_crop_fraction=preprocessing["crop_pct"],
    )
