import json
from pathlib import Path

import pytest
import torch

from engine.checkpoint import find_checkpoint, read_step, weights_digest

IDENTITY = {"seed": 0, "model.name": "vit_tiny_patch16_224"}


def written(folder: Path, step: int) -> Path:
    checkpoint = folder / f"step-{step:08d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "meta.json").write_text(json.dumps({"step": step, "identity": IDENTITY}))
    return checkpoint


def test_an_empty_run_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "checkpoints") is None


def test_a_folder_that_the_pointer_does_not_name_is_no_checkpoint_yet(tmp_path: Path) -> None:
    done, _ = written(tmp_path, 10), written(tmp_path, 20)
    (tmp_path / "latest.json").write_text(json.dumps({"tag": done.name}))
    assert find_checkpoint(tmp_path) == done


def test_the_step_is_read_where_the_run_is_the_same(tmp_path: Path) -> None:
    assert read_step(written(tmp_path, 30), IDENTITY) == 30


def test_another_run_is_refused_with_key_and_both_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed: 0 there, 1 here"):
        read_step(written(tmp_path, 30), {**IDENTITY, "seed": 1})


def test_the_digest_sees_names_shapes_and_every_bit() -> None:
    weights = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
    digest = weights_digest(weights)
    assert digest == weights_digest(dict(reversed(weights.items())))
    assert digest != weights_digest({"a": torch.zeros(3, 2), "b": torch.ones(4)})
    assert digest != weights_digest({"a": torch.zeros(2, 3), "c": torch.ones(4)})
    changed = torch.ones(4)
    changed[3] = torch.nextafter(changed[3], torch.tensor(2.0))
    assert digest != weights_digest({"a": torch.zeros(2, 3), "b": changed})
