"""The benchmark of stores: a harm is done for real, and what comes of it is held against what is expected."""

import shutil
from pathlib import Path

import pytest

from benchmarks.stores import faults, two_nodes

QUICK = ("a transfer is cut off", "files in the cache are cut short and written to", "the store refuses with 403")


def test_harms_come_out_as_expected_and_one_that_does_not_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("moto.server", reason="the S3 server of the group dev is not installed")
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    cases = {name: faults.CASES[name] for name in QUICK} | {"nothing": (lambda bench: "all is well", "a fault")}
    monkeypatch.setattr(faults, "CASES", cases)
    found = faults.fault_cases(tmp_path)
    assert [(case["case"], case["as_expected"]) for case in found] == [
        *((name, True) for name in QUICK),
        ("nothing", False),
    ]


def test_logs_of_both_servers_tell_which_host_asked_for_which_shard(tmp_path: Path) -> None:
    (tmp_path / "nginx").mkdir()
    lines = [
        '10.77.0.1 - - [26/Nov/2026:11:24:13 +0000] "GET /train-000001.tar HTTP/1.1" 200 61440 "-" "Python"',
        '10.77.0.1 - - [26/Nov/2026:11:24:13 +0000] "GET /train-000001.tar HTTP/1.1" 206 1440 "-" "Python"',
        '10.77.0.2 - - [26/Nov/2026:11:24:13 +0000] "HEAD /train-000001.tar HTTP/1.1" 200 0 "-" "Python"',
        '10.77.0.2 - - [26/Nov/2026:11:24:13 +0000] "GET /train.index HTTP/1.1" 200 4000 "-" "Python"',
    ]
    (tmp_path / "nginx" / "8081.log").write_text("\n".join(lines))
    (tmp_path / "nginx" / "8082.log").write_text("")
    (tmp_path / "moto.log").write_text(
        '10.77.0.2 - - [26/Nov/2026 11:24:13] "\x1b[35m\x1b[1mGET /toys/set/val-000000.tar HTTP/1.1\x1b[0m" 206 -\n'
    )
    asked = two_nodes._asked(tmp_path)
    assert asked["web server"]["host-a"] == {"shards": 1, "most_for_one_shard": 2}
    assert asked["web server"]["host-b"] == {"shards": 0, "most_for_one_shard": 0}
    assert asked["S3"]["host-b"] == {"shards": 1, "most_for_one_shard": 1}
