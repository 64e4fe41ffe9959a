"""``convert --part`` and ``merge``: whatever the parts, what is left is what one machine leaves."""

import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.shared.photographs import jpeg_bytes, write_image_folder
from benchmarks.shared.shard_files import image_bytes
from pipeline.shards.index import open_index, read_index
from tools.shards.__main__ import main
from tools.shards.convert import Settings, convert, convert_part
from tools.shards.images import Encoding
from tools.shards.parts.merge import merge
from tools.shards.parts.part import Part
from tools.shards.sources.source import Source, SourceSplit

NUM_IMAGES = 23
IMAGES = [image_bytes(number) for number in range(NUM_IMAGES)]


def source(broken: Sequence[int] = (), num_images: int = NUM_IMAGES) -> Source:
    """Images of two classes; the broken ones cannot be read."""
    names = [f"image {number}" for number in range(num_images)]

    def read(position: int) -> tuple[bytes, int]:
        return (b"" if position in broken else IMAGES[position]), position % 2

    return Source(["a", "b"], {"train": SourceSplit(names, read)})


def write_parts(images: Source, out: Path, chosen: Settings, order: Sequence[Part]) -> None:
    for part in order:
        assert convert_part(images, "x", out, chosen, part) is not None


def all_parts(count: int) -> list[Part]:
    return [Part(number + 1, count) for number in range(count)]


def files_of(folder: Path) -> dict[str, bytes]:
    """All files but the sample indexes, which record when their shards were written."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".index"}


def assert_same(folder: Path, other: Path) -> None:
    """The same files, and the same indexes but for the shards' modification times."""
    assert files_of(folder) == files_of(other)
    for path in folder.glob("*.index"):
        one, two = read_index(path), read_index(other / path.name)
        assert one.fingerprint == two.fingerprint
        assert [one.key(i) for i in range(one.num_samples)] == [two.key(i) for i in range(two.num_samples)]
        for name in ("shard", "offset", "length", "label", "width", "height"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@given(data=st.data())
@settings(max_examples=20, deadline=None, derandomize=True)
def test_parts_of_any_number_in_any_order_leave_what_one_machine_leaves(data: st.DataObject) -> None:
    broken = data.draw(st.sets(st.integers(0, NUM_IMAGES - 1), max_size=8))
    chosen = Settings(
        shard_samples=data.draw(st.integers(1, 9)), val_fraction=data.draw(st.sampled_from([0.0, 0.4])), seed=3
    )
    order = data.draw(st.permutations(all_parts(data.draw(st.integers(1, 9)))))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = convert(source(broken), "x", folder / "whole", chosen)
        write_parts(source(broken), folder / "parts", chosen, order)
        assert merge(folder / "parts") == (whole.dataset, False)
        assert_same(folder / "parts", folder / "whole")


def test_parts_with_addressable_jpegs_leave_the_same_units(tmp_path: Path) -> None:
    chosen = Settings(shard_samples=5, encoding=Encoding("jpeg", 90, addressable=True))
    convert(source(), "x", tmp_path / "whole", chosen)
    write_parts(source(), tmp_path / "parts", chosen, all_parts(3))
    merge(tmp_path / "parts")
    assert len(list((tmp_path / "parts").glob("*.units"))) == 5
    assert_same(tmp_path / "parts", tmp_path / "whole")


def test_a_rejected_image_leaves_a_gap_and_a_shard_of_them_alone_none(tmp_path: Path) -> None:
    chosen = Settings(shard_samples=4)
    convert(source(), "x", tmp_path / "all", chosen)
    keys = keys_of(tmp_path / "all")
    assert [key for _, key in keys] == [f"{position:08d}" for position in range(NUM_IMAGES)]
    order = np.array([names_in_order(chosen).index(f"image {number}") for number in range(NUM_IMAGES)])
    broken = [number for number in range(NUM_IMAGES) if order[number] in (1, 8, 9, 10, 11, 22)]
    convert(source(broken), "x", tmp_path / "gaps", chosen)
    assert keys_of(tmp_path / "gaps") == [pair for pair in keys if int(pair[1]) not in (1, 8, 9, 10, 11, 22)]
    assert not (tmp_path / "gaps/train-000002.tar").exists()
    assert (tmp_path / "gaps/train-000001.tar").read_bytes() == (tmp_path / "all/train-000001.tar").read_bytes()
    dataset = json.loads((tmp_path / "gaps/dataset.json").read_text())
    assert (dataset["rejected"], dataset["splits"]["train"]["num_shards"]) == (6, 5)


def names_in_order(chosen: Settings) -> list[str]:
    from tools.shards.convert import divide

    content, positions = divide(source(), chosen)["train"]
    return [content.names[position] for position in positions]


def keys_of(folder: Path) -> list[tuple[str, str]]:
    index = open_index(folder, "train")
    return [(index.shards[index.shard[i]].name, index.key(i)) for i in range(index.num_samples)]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("stop_after", [1, 4, 7, 11])
def test_a_part_that_was_killed_goes_on_beside_others_that_are_at_work(tmp_path: Path, stop_after: int) -> None:
    chosen = Settings(shard_samples=4)
    convert(source(), "x", tmp_path / "whole", chosen)
    out, seen = tmp_path / "parts", 0

    def stop(count: int) -> None:
        nonlocal seen
        seen += count
        if seen == stop_after:
            raise Killed

    with pytest.raises(Killed):
        convert_part(source(), "x", out, chosen, Part(2, 2), on_images=stop)
    mine, theirs = out / ".train-000005.tar.0a1b.tmp", out / ".train-000000.tar.2c3d.tmp"
    for leftover in (mine, theirs):
        leftover.write_bytes(b"half")
    with pytest.raises(ValueError, match=r"missing: part 1/2; run with --part what is missing"):
        merge(out)
    totals: list[tuple[int, int]] = []
    convert_part(source(), "x", out, chosen, Part(2, 2), on_total=lambda total, done: totals.append((total, done)))
    assert totals == [(11, 4 * ((stop_after - 1) // 4))]
    assert (mine.exists(), theirs.exists()) == (False, True)
    convert_part(source(), "x", out, chosen, Part(1, 2))
    merge(out)
    assert_same(out, tmp_path / "whole")


def refused(folder: Path, message: str) -> None:
    before = files_of(folder)
    with pytest.raises(ValueError, match=re.escape(message)):
        merge(folder)
    assert files_of(folder) == before


def test_merge_refuses_by_name_what_is_missing_unfinished_doubled_or_at_work(tmp_path: Path) -> None:
    out, chosen = tmp_path / "out", Settings(shard_samples=2)
    write_parts(source(), out, chosen, [Part(1, 5), Part(4, 5)])
    refused(out, "missing: parts 2, 3 and 5 of 5; run with --part what is missing, then merge again")

    def stop(count: int) -> None:
        raise Killed

    write_parts(source(), out, chosen, [Part(2, 5), Part(3, 5)])
    with pytest.raises(Killed):
        convert_part(source(), "x", out, chosen, Part(5, 5), on_images=stop)
    refused(out, "part 5/5 has 0 of its 3 shards; run the same command again to finish it")

    def merge_meanwhile(total: int, done: int) -> None:
        refused(out, "part 5/5: ")

    convert_part(source(), "x", out, chosen, Part(5, 5), on_total=merge_meanwhile)
    copy = out / "conversion-2-of-5.jsonl"
    shutil.copy(copy, out / "conversion-copy-of-2.jsonl")
    refused(out, "part 2/5 is there twice (conversion-2-of-5.jsonl, conversion-copy-of-2.jsonl); remove one")
    (out / "conversion-copy-of-2.jsonl").unlink()
    with copy.open("a") as journal:
        journal.write((out / "conversion-1-of-5.jsonl").read_text().splitlines()[1] + "\n")
    refused(out, "train-000000.tar was written by more than one call (part 1/5 and 2/5)")


def test_merge_refuses_parts_that_differ_and_so_does_a_part_that_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Settings(shard_samples=4)
    for name, images, others, count, message in (
        ("options", source(), Settings(shard_samples=4, seed=1), 3, "seed: "),
        ("source", source(num_images=22), chosen, 3, "the source's images or labels"),
        ("count", source(), chosen, 2, "in 2 parts, now in 3"),
    ):
        out, elsewhere = tmp_path / name, tmp_path / f"{name}-elsewhere"
        write_parts(source(), out, chosen, [Part(1, 3), Part(3, 3)])
        with pytest.raises(ValueError, match=r"holds conversion-1-of-3.jsonl of another conversion"):
            convert_part(images, "x", out, others, Part(2, count))
        write_parts(images, elsewhere, others, [Part(2, count)])
        for path in elsewhere.iterdir():
            shutil.copy(path, out / path.name)
        refused(out, f"part 2/{count} (conversion-2-of-{count}.jsonl) is of another conversion than part 1/3: ")
        with pytest.raises(ValueError, match=message):
            merge(out)
    out = tmp_path / "versions"
    write_parts(source(), out, chosen, [Part(1, 2)])
    monkeypatch.setattr("tools.shards.parts.journals.versions", lambda: {"pillow": "1.0"})
    with pytest.raises(ValueError, match=r"made by other versions: .*pillow \d.* and 1.0"):
        convert_part(source(), "x", out, chosen, Part(2, 2))


def test_a_merge_that_was_killed_is_done_again_and_merged_parts_are_not(tmp_path: Path) -> None:
    out, chosen = tmp_path / "out", Settings(shard_samples=4)
    write_parts(source(), out, chosen, all_parts(3))
    journals = {path: path.read_bytes() for path in out.glob("conversion-*")}

    def stop(phase: str) -> None:
        raise Killed

    with pytest.raises(Killed):
        merge(out, on_phase=stop)
    dataset, was_merged = merge(out)
    assert not was_merged
    for path in list(journals)[1:]:  # the kill came while journals were removed
        path.write_bytes(journals[path])
    assert merge(out) == (dataset, True)
    assert not list(out.glob("conversion-*"))
    assert convert_part(source(), "x", out, chosen, Part(2, 3)) is None
    assert convert(source(), "x", out, chosen).was_finished


def test_a_folder_is_converted_in_parts_or_in_one_piece_and_not_both(tmp_path: Path) -> None:
    chosen = Settings(shard_samples=4)
    write_parts(source(), tmp_path / "parts", chosen, [Part(1, 2)])
    with pytest.raises(ValueError, match="holds parts of a conversion; finish them with --part and join them with"):
        convert(source(), "x", tmp_path / "parts", chosen)

    def stop(count: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        convert(source(), "x", tmp_path / "whole", chosen, on_images=stop)
    with pytest.raises(ValueError, match="holds an unfinished conversion without --part"):
        convert_part(source(), "x", tmp_path / "whole", chosen, Part(1, 2))


def test_a_folder_from_before_keys_were_positions_is_finished_where_the_bytes_are_the_same(tmp_path: Path) -> None:
    out, path = tmp_path / "out", tmp_path / "out/dataset.json"
    dataset = convert(source(), "x", out, Settings(shard_samples=5)).dataset
    del dataset["job"]["keys"]
    path.write_text(json.dumps({**dataset, "job": {**dataset["job"], "shard_bytes": 500_000_000}}))
    assert convert(source(), "x", out, Settings(shard_samples=5)).was_finished
    assert convert(source(), "x", out, Settings(shard_samples=5, shard_bytes=500_000_000)).was_finished
    with pytest.raises(ValueError, match="holds the shards of another conversion"):
        convert(source(), "x", out, Settings(shard_samples=5, shard_bytes=1000))
    path.write_text(json.dumps({**dataset, "rejected": 1}))
    with pytest.raises(ValueError, match="an earlier version numbered samples otherwise"):
        convert(source(), "x", out, Settings(shard_samples=5))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_image_folder(folder, 12, 2, width=40, height=30)
    (folder / "class_0/0000.jpg").write_bytes(jpeg_bytes(1)[:5000])
    return folder


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_the_commands_tell_of_parts_and_merge_tells_what_one_command_would(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("convert", "--source", f"imagefolder:{photographs}", "--shard-samples", 5, "--workers", 1)
    assert run(*given, "--out", tmp_path / "whole", "--json") == 1
    whole = json.loads(capsys.readouterr().out)
    assert run(*given, "--out", tmp_path / "parts", "--part", "2/2") == 0
    told = capsys.readouterr().out
    assert told.startswith("part 2/2: ")
    assert f"when all parts are done: python -m tools.shards merge {tmp_path / 'parts'}\n" in told
    assert run(*given, "--out", tmp_path / "parts", "--part", "1/2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_shards"] == 1
    assert run("merge", tmp_path / "parts", "--json") == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == whole
    assert captured.err.splitlines()[-1].startswith("error: 1 image(s) were rejected and --max-rejected is 0.")
    assert run("merge", tmp_path / "parts", "--max-rejected", 1) == 0
    assert_same(tmp_path / "parts", tmp_path / "whole")


def test_options_that_parts_cannot_have_are_refused_in_one_line(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for options, message in (
        (
            ("--part", "1/2", "--shard-bytes", 1000),
            "--shard-bytes with --part: where bytes end a shard, only its writer",
        ),
        (("--ray", "auto", "--shard-bytes", 1000), "--shard-bytes with --ray"),
        (("--part", "0/16"), "parts are numbered from 1, so K of K/N is 1 to N"),
        (("--part", "3"), "it is written K/N, such as 3/16"),
        (("--part", "1/2", "--max-rejected", 3), "--max-rejected with --part: it is of all parts together"),
        (("--part", "1/2", "--levels", 20), "--levels with --part: they are made of all shards"),
        (("--part", "1/2", "--ray", "auto"), "not allowed with argument"),
    ):
        assert run("convert", "--source", f"imagefolder:{photographs}", "--out", out, *options) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()
    for folder, message in ((photographs, "holds no parts; they are made with --part K/N"), (out, "no such folder")):
        assert run("merge", folder) == 2
        assert message in capsys.readouterr().err
