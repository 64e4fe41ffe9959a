"""Files of Fisher information: how sharply each weight of a trained model is determined by its data.

``tools.fisher`` writes them, ``train.anchor`` reads them. A safetensors file that holds a float32 tensor for each
parameter, of its name and shape, and the digest of the weights that it was computed at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from engine.values.anchor import check_fisher_file
from pipeline.files import write_atomically

_DIGEST = "weights_digest"


@dataclass(frozen=True)
class Fisher:
    """The diagonal of the Fisher information matrix, by parameter name.

    Attributes:
        diagonal: float32 on the CPU, of the parameters' shapes; finite, at least 0.
        weights_digest: of all parameters that it was computed at, as ``weights_digest`` makes it.
    """

    diagonal: Mapping[str, Tensor]
    weights_digest: str


def write_fisher(path: Path, fisher: Fisher, facts: Mapping[str, str]) -> None:
    """Write the file, whole or not at all. ``facts``: what else people should find in it, such as the run's name."""
    content = save(
        {name: value.contiguous() for name, value in fisher.diagonal.items()},
        {**facts, _DIGEST: fisher.weights_digest},
    )
    write_atomically(path, content, sync=True)


def read_fisher(path: Path) -> Fisher:
    """Read and check the file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no such file, or holds what no Fisher information can be.
    """
    check_fisher_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            digest = (file.metadata() or {}).get(_DIGEST)
            diagonal = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{_told(path)} is no file that tools.fisher wrote ({error}); make it anew") from None
    if digest is None:
        raise ValueError(f"{_told(path)} does not say which weights it is of; make it with python -m tools.fisher")
    for name, value in diagonal.items():
        if not bool((torch.isfinite(value) & (value >= 0)).all()):
            raise ValueError(f"{_told(path)} holds values for {name} that are negative or not finite; make it anew")
    return Fisher(diagonal, digest)


def _told(path: Path) -> str:
    return f"train.anchor.fisher: {path}"
