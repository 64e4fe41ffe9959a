"""Whole runs over shards in stores: the weights are those of the same shards on a disk."""

import shutil
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from launching import run_jobs
from run_results import lines

from benchmarks.shared.stores import Line, put, web_server
from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from engine.metrics_table import METRICS
from pipeline.addresses import Address


def mend_once_stopped(line: Line, folder: Path) -> None:
    """Bring a line up again when the run has saved its checkpoint."""
    until = time.monotonic() + 300
    while not list(folder.glob("checkpoints/step-*/manifest.json")) and time.monotonic() < until:
        time.sleep(0.05)
    line.down_after, line.is_down = None, False


@pytest.mark.timeout(600)
def test_runs_over_disk_web_and_bucket_train_the_same_weights_also_where_the_store_was_lost(
    tmp_path: Path, s3_line: Line
) -> None:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    shards = write_toy_shards(tmp_path / "shards", shard_samples=20)  # ten of training, three of validation
    config = write_toy_config(tmp_path / "toy.yaml", shards)
    address = Address.parse("s3://runs/toy")
    put(shards, address)
    s3_line.gets.clear()
    largest = max(path.stat().st_size for path in shards.glob("*.tar"))
    window = ["--set", "data.shuffle=window", "--set", "data.window_shards=1"]

    def job(name: str, place: object, *more: str) -> list[str]:
        places = ["--set", f"data.train={place}", "--set", f"data.val={place}"]
        cache = [
            "--set",
            f"data.cache_folder={tmp_path / 'cache' / name}",
            "--set",
            f"data.cache_max_bytes={5 * largest}",
        ]
        return ["--config", str(config), "--out", str(tmp_path / name), *window, *places, *cache, *more]

    servers = ExitStack()
    lost = Line(servers.enter_context(web_server(shards, tmp_path / "nginx"))[0])
    over_lost = job("lost", lost.url, "--set", "data.remote_patience_s=1")
    lost.down_after = 6
    mending = threading.Thread(target=mend_once_stopped, args=(lost, tmp_path / "lost"), daemon=True)
    mending.start()
    jobs = [job("disk", shards), job("bucket", address), over_lost, over_lost]
    with servers:
        codes, printed = run_jobs(2, jobs, tmp_path / "jobs")
        lost.close()
    assert codes == [0, 0, 75, 0], printed
    assert "stopped by the loss of the store" in printed
    disk, *others = [
        (tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("disk", "bucket", "lost")
    ]
    assert others == [disk, disk]
    fetched = {path: count for path, count in s3_line.gets.items() if path.endswith(".tar")}
    assert len(fetched) == 13
    told = lines(tmp_path, "bucket", "store")
    assert {tuple(line) for line in told} == {tuple(metric.name for metric in METRICS if metric.event == "store")}
    assert not lines(tmp_path, "disk", "store")
    assert sum(line["fetched_files"] for line in told) >= 10
    assert sum(line["fetched_bytes"] for line in told) >= sum(path.stat().st_size for path in shards.glob("train*.tar"))
