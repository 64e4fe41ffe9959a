"""When a conversion is made, reused and thrown away; whether it is right is tested in whole runs."""

import argparse
from pathlib import Path

import pytest
from deepspeed.checkpoint import ds_to_universal

from engine.checkpoints.elastic import remove_universal_checkpoints, universal_checkpoint
from engine.checkpoints.manifest import FileFacts, file_facts, files_in, step_folder, verify_manifest, write_manifest


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return written(tmp_path, b"state of two ranks")


def written(folder: Path, content: bytes) -> Path:
    checkpoint = step_folder(folder / "checkpoints", 10)
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "state.pt").write_bytes(content)
    facts: dict[str, FileFacts] = {name: file_facts(path) for name, path in files_in(checkpoint).items()}
    write_manifest(checkpoint, {"step": 10, "world_size": 2, "identity": {}}, facts)
    return checkpoint


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for DeepSpeed's conversion; lists the folders that were converted."""
    done: list[str] = []

    def convert(arguments: argparse.Namespace) -> None:
        done.append(arguments.input_folder)
        output = Path(arguments.output_folder)
        (output / "zero" / "head.bias").mkdir(parents=True)
        (output / "zero" / "head.bias" / "fp32.pt").write_bytes(b"whole " + (Path(done[-1]) / "state.pt").read_bytes())
        (output.parent / "latest_universal").write_text(output.name)

    monkeypatch.setattr(ds_to_universal, "main", convert)
    return done


def test_a_conversion_is_made_once_and_used_again(source: Path, conversions: list[str]) -> None:
    first = universal_checkpoint(source, source.parent)
    assert verify_manifest(first)["step"] == 10
    assert universal_checkpoint(source, source.parent) == first
    assert conversions == [str(source)]
    assert sorted(path.name for path in source.parent.iterdir()) == ["step-00000010", "universal-step-00000010"]


def test_a_damaged_conversion_is_made_anew(source: Path, conversions: list[str]) -> None:
    file = universal_checkpoint(source, source.parent) / "zero" / "head.bias" / "fp32.pt"
    file.write_bytes(b"")
    universal_checkpoint(source, source.parent)
    assert len(conversions) == 2
    assert file.read_bytes() == b"whole state of two ranks"


def test_a_conversion_of_another_course_of_the_run_is_made_anew(
    tmp_path: Path, source: Path, conversions: list[str]
) -> None:
    universal_checkpoint(source, source.parent)
    written(tmp_path, b"another state")
    universal_checkpoint(source, source.parent)
    assert len(conversions) == 2


def test_a_conversion_that_was_interrupted_does_not_stay(source: Path, conversions: list[str]) -> None:
    left = source.parent / ".universal-step-00000010.partial" / "converted"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"")
    verify_manifest(universal_checkpoint(source, source.parent))
    assert not left.exists()


def test_a_conversion_that_fails_is_told_and_leaves_nothing_that_counts(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: argparse.Namespace) -> None:
        raise RuntimeError("file write failed")

    monkeypatch.setattr(ds_to_universal, "main", fail)
    with pytest.raises(OSError, match=r"file write failed.*is there room"):
        universal_checkpoint(source, source.parent)
    verify_manifest(source)
    remove_universal_checkpoints(source.parent)
    assert [path.name for path in source.parent.iterdir()] == ["step-00000010"]
