"""Pretrained weights as others publish them: from a file to names and tensors, without running code from it."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# Under one of these keys a file that holds more than weights keeps them.
WEIGHT_KEYS = ("state_dict", "model", "module")
# Classes that training code likes to save beside the weights. torch lists the classes that a file names, but not
# for files from before torch 1.6: in those, these are allowed for.
USUAL_CLASSES = ("argparse.Namespace", "yacs.config.CfgNode")


class Placeholder:
    """Takes the place of any class or function that a pickle names: whatever it is called with, nothing happens.

    Instances are plain ``OrderedDict``s, because that is the one type which torch's reader lets a pickle fill both as a
    mapping (``CfgNode``) and by attributes (``Namespace``).
    """

    def __new__(cls, *args: Any) -> "OrderedDict[Any, Any]":  # type: ignore[misc]
        return OrderedDict()


def read_weights(source: str, timm_name: str) -> dict[str, Tensor]:
    """Names and tensors of ``source``, as they are there, wrappers around the names taken off.

    Args:
        source: ``timm``, ``local-dir:DIR`` or a file; see ``engine.models.weights.load_pretrained``.
        timm_name: whose published weights ``timm`` stands for.

    Raises:
        FileNotFoundError: if the file or folder is not there.
        ValueError: for an unknown kind of source, or an unreadable file.
    """
    if source == "timm":
        return _published_weights(timm_name)
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
        content = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except Exception as error:  # safetensors, zip and pickle readers each raise their own kinds
        raise ValueError(
            f"{path} cannot be read as plain weights (files that need code to be run are refused): {_reason(error)}"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no weights by name, but a {type(content).__name__}")
    inner = next((content[key] for key in WEIGHT_KEYS if isinstance(content.get(key), Mapping)), content)
    return {key: value for key, value in clean_state_dict(inner).items() if isinstance(value, Tensor)}


def _unpickle(path: Path) -> Any:
    """The content of a file of ``torch.save``; every class in it that is not torch's own becomes a ``Placeholder``."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # an old format that cannot be listed, or a damaged file, which torch.load will name
        named = list(USUAL_CLASSES)
    with torch.serialization.safe_globals([(Placeholder, name) for name in named]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _published_weights(name: str) -> dict[str, Tensor]:
    """The state dict of a timm name, at the sizes in which it was published."""
    if not timm.is_model_pretrained(name):
        tags = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        hint = f"it has weights for {', '.join(tags)}" if tags else "set pretrained to a file, or leave it out"
        raise ValueError(f"timm publishes no weights for '{name}'; {hint}")
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # network, cache and hub failures come in many classes
        raise ValueError(
            f"timm could not fetch the weights of '{name}': {_reason(error)} "
            "(without a network, download them elsewhere and set pretrained to the file)"
        ) from error


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
