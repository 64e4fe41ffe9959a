import hashlib
import os
from pathlib import Path

import pytest
import torch

from engine.checkpoints.state_files import CopyingEngine, describe, read_state, write_state


def test_what_was_written_is_known_by_size_and_hash(tmp_path: Path) -> None:
    state = {"weights": torch.arange(100_000, dtype=torch.float32), "step": 7}
    facts = write_state(tmp_path / "state.pt", state)
    content = (tmp_path / "state.pt").read_bytes()
    assert (facts.num_bytes, facts.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    read = read_state(tmp_path / "state.pt")
    assert read["step"] == 7
    assert torch.equal(read["weights"], state["weights"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full, the disk that is always full")
def test_a_full_disk_is_told_with_the_file_and_the_cause(tmp_path: Path) -> None:
    (tmp_path / "state.pt").symlink_to("/dev/full")
    with pytest.raises(OSError) as error:
        write_state(tmp_path / "state.pt", {"weights": torch.zeros(100_000)})
    assert describe(error.value) == f"{tmp_path / 'state.pt'}: {os.strerror(28)}"


def test_a_folder_that_is_not_there_is_told_likewise(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"gone/state\.pt: No such file or directory"):
        write_state(tmp_path / "gone" / "state.pt", {})


def test_a_state_that_cannot_be_read_is_told_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"no archive")
    with pytest.raises(OSError, match=r"state\.pt cannot be read"):
        read_state(tmp_path / "state.pt")
    with pytest.raises(FileNotFoundError):
        read_state(tmp_path / "gone.pt")


def test_later_training_does_not_reach_what_was_taken(tmp_path: Path) -> None:
    buffer = torch.arange(1000.0)
    state = {"view": buffer[:10], "groups": [{"lr": 0.1, "params": [0, 1]}], "nested": (buffer[5:7], "text")}
    engine = CopyingEngine()
    engine.save(state, str(tmp_path / "a.pt"))
    buffer.zero_()
    state["groups"][0]["lr"] = 0.2
    [(path, taken)] = engine.take()
    assert path == tmp_path / "a.pt"
    assert taken["view"].tolist() == list(range(10))
    assert taken["nested"][0].tolist() == [5, 6]
    assert taken["groups"][0]["lr"] == 0.1
    assert taken["view"].untyped_storage().nbytes() == 10 * 4
    assert engine.take() == []
