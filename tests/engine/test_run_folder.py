from pathlib import Path

import pytest

from engine.config import load_config
from engine.run_folder import prepare_folder

FASHION = Path(__file__).resolve().parents[2] / "configs" / "fashion_mnist.yaml"


def test_the_resolved_configuration_is_written(tmp_path: Path) -> None:
    config = load_config(FASHION, ["seed=7"])
    prepare_folder(tmp_path / "run", config, fresh=True)
    assert load_config(tmp_path / "run" / "config.yaml") == config


def test_a_resumed_run_finds_everything_in_place(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("line\n")
    prepare_folder(tmp_path, load_config(FASHION), fresh=False)
    assert (tmp_path / "metrics.jsonl").read_text() == "line\n"


def test_a_fresh_run_moves_earlier_ones_aside_and_deletes_nothing(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "metrics.jsonl").write_text(f"run {number}\n")
        prepare_folder(tmp_path, load_config(FASHION), fresh=True)
    assert not (tmp_path / "metrics.jsonl").exists()
    assert [(tmp_path / f"earlier-{n}" / "metrics.jsonl").read_text() for n in (1, 2)] == ["run 1\n", "run 2\n"]


def test_a_crash_leaves_the_earlier_configuration_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    prepare_folder(tmp_path, load_config(FASHION, ["seed=7"]), fresh=True)
    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(OSError, match="No space left"):
        prepare_folder(tmp_path, load_config(FASHION, ["seed=8"]), fresh=False)
    assert load_config(tmp_path / "config.yaml").seed == 7
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]
