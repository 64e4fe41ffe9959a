from pathlib import Path

import pytest
import torch

from engine.checkpoints.checkpoint import remove_superseded, weights_digest
from engine.checkpoints.manifest import MANIFEST, step_folder, steps_in


def folders(folder: Path, complete: list[int], interrupted: list[int]) -> None:
    for step in [*complete, *interrupted]:
        step_folder(folder, step).mkdir(parents=True)
        if step in complete:
            (step_folder(folder, step) / MANIFEST).write_text("{}")


@pytest.mark.parametrize(
    ("complete", "interrupted", "keep_last", "keep_every", "left"),
    [
        ([10, 20, 30], [], 2, None, [20, 30]),
        ([10, 20, 30], [], 1, 10, [10, 20, 30]),
        ([10, 30], [20], 2, None, [10, 30]),  # what an interrupted save left does not count as one of the last
        ([30], [10, 20], 1, None, [30]),
        ([10, 30, 40], [50], 1, None, [30, 40, 50]),  # saved: 30; what is newer is not this save's business
    ],
)
def test_a_save_deletes_what_it_makes_superfluous(
    tmp_path: Path, complete: list[int], interrupted: list[int], keep_last: int, keep_every: int | None, left: list[int]
) -> None:
    folders(tmp_path, complete, interrupted)
    for name in ("universal-step-00000010", ".universal-step-00000020.partial", "set-aside"):
        (tmp_path / name).mkdir()
    remove_superseded(tmp_path, 30, keep_last=keep_last, keep_every=keep_every)
    assert steps_in(tmp_path) == left
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("step-")) == ["set-aside"]


def test_the_digest_sees_names_shapes_and_every_bit() -> None:
    weights = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
    digest = weights_digest(weights)
    assert digest == weights_digest(dict(reversed(weights.items())))
    assert digest != weights_digest({"a": torch.zeros(3, 2), "b": torch.ones(4)})
    assert digest != weights_digest({"a": torch.zeros(2, 3), "c": torch.ones(4)})
    changed = torch.ones(4)
    changed[3] = torch.nextafter(changed[3], torch.tensor(2.0))
    assert digest != weights_digest({"a": torch.zeros(2, 3), "b": changed})


def test_a_file_that_cannot_be_deleted_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def busy(path: Path) -> None:
        raise OSError(16, "Device or resource busy", str(path))

    folders(tmp_path, [10, 20], [])
    monkeypatch.setattr("engine.checkpoints.manifest.shutil.rmtree", busy)
    remove_superseded(tmp_path, 20, keep_last=1, keep_every=None)
    assert "step-00000010: Device or resource busy" in capsys.readouterr().err
    assert not (step_folder(tmp_path, 10) / MANIFEST).exists()
