"""Files of Fisher information."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.run.fisher import Fisher, read_fisher, write_fisher


def test_what_is_written_is_read(tmp_path: Path) -> None:
    diagonal = {"head.weight": torch.rand(3, 2), "head.bias": torch.zeros(3)}
    write_fisher(tmp_path / "fisher.safetensors", Fisher(diagonal, "abc"), {"run": "mine"})
    found = read_fisher(tmp_path / "fisher.safetensors")
    assert found.weights_digest == "abc"
    assert found.diagonal.keys() == diagonal.keys()
    assert all(torch.equal(found.diagonal[name], value) for name, value in diagonal.items())


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_what_no_fisher_information_can_be_is_refused(tmp_path: Path, value: float) -> None:
    path = tmp_path / "fisher.safetensors"
    write_fisher(path, Fisher({"a": torch.ones(2), "b": torch.tensor([0.0, value])}, "abc"), {})
    with pytest.raises(ValueError, match="holds values for b that are negative or not finite"):
        read_fisher(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fisher.safetensors"
    path.write_text("no such thing")
    with pytest.raises(ValueError, match=r"is no file that tools\.fisher wrote"):
        read_fisher(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="does not say which weights it is of"):
        read_fisher(path)
    with pytest.raises(FileNotFoundError, match=r"python -m tools\.fisher"):
        read_fisher(tmp_path / "nowhere.safetensors")
