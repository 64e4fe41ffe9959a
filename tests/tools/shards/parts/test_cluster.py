"""``--ray``: the shards of a command as tasks of a cluster, of which a node is lost on the way."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jpeg_files import needs_jpegtran

from benchmarks.shared.photographs import write_image_folder
from pipeline.shards.index import read_index
from tools.shards.__main__ import main
from tools.shards.convert import Settings, convert
from tools.shards.sources.table import open_source


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def files_of(folder: Path) -> dict[str, bytes]:
    """All files but the sample indexes, which record when their shards were written."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".index"}


def test_a_missing_ray_is_told_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    write_image_folder(tmp_path / "images", 2, 2, width=20, height=20)
    arguments = ("convert", "--source", f"imagefolder:{tmp_path / 'images'}", "--out", tmp_path / "out")
    assert run(*arguments, "--ray", "auto") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: Ray is not installed; install it, in the project's folder, on every host: pip")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes on this machine."""
    pytest.importorskip("ray", reason="Ray is an optional package (pip install '.[ray]')")
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    nodes = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    nodes.add_node(**small)
    yield nodes
    nodes.shutdown()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_image_folder(folder, 60, 3, width=40, height=30)
    (folder / "class_0/0000.jpg").write_bytes(b"")
    return folder


class Killed(BaseException):
    pass


def test_a_cluster_writes_the_same_bytes_while_driver_and_node_are_lost(
    cluster: Any, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, chosen = open_source(f"imagefolder:{images}", tmp_path), Settings(shard_samples=5, val_fraction=0.2)
    whole = convert(source, "x", tmp_path / "whole", chosen).dataset

    def stop(count: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        convert(source, "x", tmp_path / "ray", chosen, ray=cluster.address, on_images=stop)
    seen: list[int] = []

    def lose_a_node(count: int) -> None:
        seen.append(count)
        if len(seen) == 2:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    made = convert(source, "x", tmp_path / "ray", chosen, ray=cluster.address, on_images=lose_a_node)
    assert sum(seen) == 55
    assert capsys.readouterr().out == ""  # of the lost node Ray speaks elsewhere
    assert made.dataset == whole
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "whole")
    for split in ("train", "val"):
        one, two = (read_index(tmp_path / name / f"{split}.index") for name in ("ray", "whole"))
        assert one.fingerprint == two.fingerprint

    out, options = tmp_path / "ray", ("--ray", cluster.address)
    assert run("verify", out, *options, "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_samples"] == 59
    assert run("score", out, "--by", "contrast", *options) == 0
    assert run("score", tmp_path / "whole", "--by", "contrast", "--workers", 1) == 0
    assert files_of(out) == files_of(tmp_path / "whole")
    (tmp_path / "whole/train-000001.tar").write_bytes(b"")
    assert run("verify", tmp_path / "whole", *options) == 1
    assert "train-000001.tar: not a whole, uncompressed tar" in capsys.readouterr().out


@needs_jpegtran
def test_levels_and_readdressed_shards_are_the_same_too(cluster: Any, images: Path, tmp_path: Path) -> None:
    ways = {"ray": ("--ray", cluster.address), "whole": ("--workers", 1)}
    for name, options in ways.items():
        made = ("--out", tmp_path / name, "--shard-samples", 20, "--levels", 20, "--max-rejected", 1, *options)
        assert run("convert", "--source", f"imagefolder:{images}", *made) == 0
        assert run("readdress", tmp_path / name, "--out", tmp_path / f"{name}-addressable", *options) == 0
    assert files_of(tmp_path / "ray-addressable") == files_of(tmp_path / "whole-addressable")
    levels = [files_of(tmp_path / name / "level-20") for name in ways]
    # The level says of which folder it is.
    assert {path: data for path, data in levels[0].items() if path != "dataset.json"} == {
        path: data for path, data in levels[1].items() if path != "dataset.json"
    }


def test_no_cluster_is_an_error_of_one_line(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="Ray is an optional package (pip install '.[ray]')")
    arguments = ("convert", "--source", f"imagefolder:{images}", "--out", tmp_path / "out", "--ray", "127.0.0.1:1")
    assert run(*arguments) == 2
    assert "no Ray cluster by --ray 127.0.0.1:1 ([Errno 111] Connection" in capsys.readouterr().err.splitlines()[-1]
    assert run(*arguments[:-1], "somewhere") == 2
    assert "--ray somewhere; it is auto, or HOST:PORT" in capsys.readouterr().err.splitlines()[-1]
