"""Pretrained weights as others publish them: from a file to names and tensors, without running code from it."""

import re
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.models.published import published_weights, reason_of
from engine.models.weight_place import weights_file
from engine.models.weight_sets import FoundWeights, choose_weights

# Classes that training code likes to save beside the weights. torch lists the classes that a file names, but not
# for files from before torch 1.6: in those, these are allowed for.
USUAL_CLASSES = ("argparse.Namespace", "yacs.config.CfgNode")
_DEEPEST = 4  # mappings in mappings that are looked through for weights
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
SAVE_NAMES = "save its state_dict() where the model's code is at hand: torch.save(model.state_dict(), PATH)"


class Placeholder:
    """Takes the place of any class or function that a pickle names: whatever it is called with, nothing happens.

    Instances are plain ``OrderedDict``s, because that is the one type which torch's reader lets a pickle fill both as a
    mapping (``CfgNode``) and by attributes (``Namespace``).
    """

    def __new__(cls, *args: Any) -> "OrderedDict[Any, Any]":  # type: ignore[misc]
        return OrderedDict()


def read_weights(source: str, timm_name: str, own: Collection[str], key: str | None = None) -> FoundWeights:
    """The weights of ``source`` for a model, names and tensors as they are there, wrappers around the names taken off.

    Args:
        source: ``timm``, ``local-dir:DIR`` or a file; see ``engine.models.weights.load_pretrained``.
        timm_name: whose published weights ``timm`` stands for.
        own: the names of the model's parameters and buffers, by which wrappers are known.
        key: which set to take of a file that holds several; None: by ``weight_sets.ORDER``.

    Raises:
        FileNotFoundError: if the file or folder is not there.
        ValueError: for an unknown kind of source, an unreadable file, or a key that it does not have.
    """
    if source == "timm":
        if key is not None:
            raise ValueError(f"timm publishes one set of weights; leave out model.pretrained_key, got '{key}'")
        return FoundWeights(published_weights(timm_name))
    path = weights_file(source)
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ValueError(
                f"{path} is a Git LFS pointer, a few lines that stand for the weights: fetch them where it comes from, "
                "with git lfs pull"
            )
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except Exception as error:  # safetensors, zip and pickle readers each raise their own kinds
        raise ValueError(
            f"{path} cannot be read as plain weights (files that need code to be run are refused): {_why(error)}"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no weights by name, but a {type(content).__name__}")
    containers = _containers(content)
    modules = [str(name) for name, value in content.items() if _is_module(value)]
    if _is_module(content) or (modules and not containers):
        where = f" under {', '.join(modules)}" if modules else ""
        raise ValueError(
            f"{path} holds a whole pickled model{where}, which only its own code can read, not its weights by name; "
            f"{SAVE_NAMES}"
        )
    return choose_weights(containers, own, str(path), key)


def _unpickle(path: Path) -> Any:
    """The content of a file of ``torch.save``; every class in it that is not torch's own becomes a ``Placeholder``."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # an old format that cannot be listed, or a damaged file, which torch.load will name
        named = list(USUAL_CLASSES)
    with torch.serialization.safe_globals([(Placeholder, name) for name in named]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _containers(content: Mapping[Any, Any]) -> dict[str, dict[str, Tensor]]:
    """The mappings of a file that hold tensors by name, by their keys; an optimizer's, by number, are none."""
    found: dict[str, dict[str, Tensor]] = {}

    def look(mapping: Mapping[Any, Any], place: str, depth: int) -> None:
        tensors = {_compiled_off(name): value for name, value in _named(mapping) if isinstance(value, Tensor)}
        if tensors:
            found[place] = tensors
        for name, value in _named(mapping):
            if isinstance(value, Mapping) and depth < _DEEPEST:
                look(value, f"{place}.{name}" if place else name, depth + 1)

    look(content, "", 1)
    return found


def _named(mapping: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in mapping.items() if isinstance(name, str)]


def _compiled_off(name: str) -> str:
    """A name as it was before ``torch.compile``, which marks each module that it wraps."""
    return ".".join(word for word in name.split(".") if word != "_orig_mod")


def _is_module(value: Any) -> bool:
    """Whether a ``Placeholder`` has been filled with what every pickled module holds."""
    return isinstance(value, OrderedDict) and "_modules" in vars(value)


def _why(error: Exception) -> str:
    """torch's own message begins with advice to run the file's code; the class it stumbled on tells more."""
    stumbled = re.search(r"GLOBAL (\S+)", str(error))
    if stumbled is None:
        return reason_of(error)
    return f"it needs {stumbled[1]}; if it is a whole pickled model, {SAVE_NAMES}"
