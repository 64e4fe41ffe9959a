import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoints.manifest import (
    MANIFEST,
    DamagedError,
    FileFacts,
    file_facts,
    files_in,
    newest_valid,
    read_manifest,
    step_folder,
    steps_in,
    superseded,
    verify_manifest,
    write_manifest,
)

CONTENTS = {"weights.pt": bytes(range(200)), "zero/optimizer.pt": b"moments" * 9, "empty.pt": b""}


def complete(folder: Path, step: int = 10, **facts: object) -> Path:
    """A checkpoint of three files, one in a folder of its own and one empty, with its manifest."""
    for name, content in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    files = {name: file_facts(path, sync=True) for name, path in files_in(folder).items()}
    write_manifest(folder, {"step": step, "world_size": 2, **facts}, files)
    return folder


def test_an_untouched_checkpoint_holds_and_says_what_it_is(tmp_path: Path) -> None:
    manifest = verify_manifest(complete(tmp_path / "c", identity={"seed": 3, "optim.lr": 0.1}))
    assert (manifest["step"], manifest["world_size"], manifest["identity"]) == (10, 2, {"seed": 3, "optim.lr": 0.1})
    assert {name: facts["num_bytes"] for name, facts in manifest["files"].items()} == {
        name: len(content) for name, content in CONTENTS.items()
    }


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_flipped_bit_of_any_file_is_noticed(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = complete(Path(name))
        victim = folder / data.draw(st.sampled_from([MANIFEST, "weights.pt", "zero/optimizer.pt"]))
        content = bytearray(victim.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        victim.write_bytes(content)
        with pytest.raises(DamagedError, match=victim.name.split(".")[0]):
            verify_manifest(folder)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_truncated_or_grown_file_is_noticed(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = complete(Path(name))
        victim = folder / data.draw(st.sampled_from([MANIFEST, *CONTENTS]))
        content = victim.read_bytes()
        shorter = [content[:length] for length in range(len(content))]
        victim.write_bytes(data.draw(st.sampled_from([*shorter, content + b"\0", content + b"\n"])))
        with pytest.raises(DamagedError):
            verify_manifest(folder)


@pytest.mark.parametrize("name", CONTENTS)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (complete(tmp_path / "c") / name).unlink()
    with pytest.raises(DamagedError, match=f"{name} is missing"):
        verify_manifest(tmp_path / "c")


@pytest.mark.parametrize("name", ["extra.pt", "zero/extra.pt", "new/extra.pt"])
def test_an_extra_file_is_named(tmp_path: Path, name: str) -> None:
    path = complete(tmp_path / "c") / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    with pytest.raises(DamagedError, match=f"{name} is not in the manifest"):
        verify_manifest(tmp_path / "c")


def test_files_that_changed_places_are_noticed(tmp_path: Path) -> None:
    folder = complete(tmp_path / "c")
    (folder / "weights.pt").write_bytes(CONTENTS["zero/optimizer.pt"])
    (folder / "zero/optimizer.pt").write_bytes(CONTENTS["weights.pt"])
    with pytest.raises(DamagedError):
        verify_manifest(folder)


def test_a_manifest_of_a_later_format_is_refused_by_its_number(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"format": 99}, {})
    with pytest.raises(DamagedError, match="format 99"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"digest": 1}', '{"format": 1, "digest": "x"}', "\xff"])
def test_nonsense_in_the_place_of_a_manifest_is_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text, encoding="latin-1")
    with pytest.raises(DamagedError, match=r"manifest\.json is damaged"):
        read_manifest(tmp_path)


def test_files_that_the_first_rank_cannot_see_are_not_declared_complete(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"rank-3\.pt is not to be seen .* shared by all hosts"):
        write_manifest(tmp_path, {"step": 1}, {"rank-3.pt": FileFacts(4, "0" * 64)})
    assert not (tmp_path / MANIFEST).exists()


def test_the_newest_checkpoint_that_holds_is_found_with_a_reason_for_each_newer_one(tmp_path: Path) -> None:
    for step in (5, 10, 20, 30, 40):
        complete(step_folder(tmp_path, step), step)
    (step_folder(tmp_path, 40) / MANIFEST).unlink()
    (step_folder(tmp_path, 30) / "weights.pt").unlink()
    (step_folder(tmp_path, 20) / "weights.pt").write_bytes(bytes(200))
    found, passed_over = newest_valid(tmp_path)
    assert found == step_folder(tmp_path, 10)
    reasons = {path.name: reason for path, reason in passed_over.items()}
    assert reasons == {
        "step-00000040": "it has no manifest.json: the save was interrupted",
        "step-00000030": "its file weights.pt is missing",
        "step-00000020": "the content of its file weights.pt is not what was written (SHA-256 differs)",
    }


def test_folders_of_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    for name in ("universal-step-00000010", ".universal-step-00000010.partial", "step-12", "set-aside"):
        complete(tmp_path / name)
    assert steps_in(tmp_path) == []
    assert newest_valid(tmp_path) == (None, {})
    assert steps_in(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "kept"),
    [
        (1, None, [50]),
        (3, None, [30, 40, 50]),
        (9, None, [10, 20, 30, 40, 50]),
        (1, 20, [20, 40, 50]),
        (1, 15, [20, 30, 50]),  # the first at or after 15, 30 and 45
        (2, 50, [40, 50]),
        (2, 100, [40, 50]),
    ],
)
def test_the_last_ones_and_each_milestone_are_kept(keep_last: int, keep_every: int | None, kept: list[int]) -> None:
    steps = [10, 20, 30, 40, 50]
    deleted = superseded(steps, keep_last=keep_last, keep_every=keep_every)
    assert [step for step in steps if step not in deleted] == kept


@given(
    st.lists(st.integers(1, 300), min_size=1, unique=True),
    st.integers(1, 4),
    st.none() | st.integers(1, 100),
)
def test_pruning_along_the_way_keeps_the_newest_and_never_loses_a_milestone(
    steps: list[int], keep_last: int, keep_every: int | None
) -> None:
    steps.sort()
    left: list[int] = []
    for step in steps:
        left.append(step)
        left = [s for s in left if s not in superseded(left, keep_last=keep_last, keep_every=keep_every)]
        assert step in left
    milestones = {} if keep_every is None else {s // keep_every: s for s in reversed(steps) if s >= keep_every}
    assert left == sorted({*steps[-keep_last:], *milestones.values()})


def test_a_manifest_is_plain_json_that_people_can_read(tmp_path: Path) -> None:
    written = json.loads((complete(tmp_path / "c") / MANIFEST).read_text())
    assert written["files"]["weights.pt"]["num_bytes"] == 200
