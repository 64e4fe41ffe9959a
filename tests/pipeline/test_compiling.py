import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.compiling import is_first_start, kernels_digest

ROOT = Path(__file__).resolve().parents[2]


def package(folder: Path, **sources: str) -> Path:
    for name, text in sources.items():
        path = folder / "room" / "kernels" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_changed_or_renamed_or_added_kernel_has_another_cache(tmp_path: Path) -> None:
    variants = ({"a": "1"}, {"a": "2"}, {"b": "1"}, {"a": "1", "b": "1"})
    digests = {kernels_digest(package(tmp_path / str(i), **variants[i])) for i in range(len(variants))}
    assert len(digests) == len(variants)


def test_the_same_kernels_have_the_same_cache_wherever_they_lie(tmp_path: Path) -> None:
    sources = {"a": "1", "b": "2"}
    assert kernels_digest(package(tmp_path / "here", **sources)) == kernels_digest(
        package(tmp_path / "there", **sources)
    )


def test_a_source_that_is_no_kernel_does_not_count(tmp_path: Path) -> None:
    before = kernels_digest(package(tmp_path, a="1"))
    (tmp_path / "room" / "other.py").write_text("2")
    assert kernels_digest(tmp_path) == before


def test_the_first_start_is_the_one_before_anything_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path / "none"))
    assert is_first_start()
    (tmp_path / "none" / "graph").mkdir(parents=True)
    assert is_first_start()
    (tmp_path / "none" / "graph" / "resampling.fill-3.py311.nbi").write_text("")
    assert not is_first_start()


def cache_folder(**environment: str) -> str:
    program = "import pipeline.compiling, numba; print(numba.config.CACHE_DIR)"
    inherited = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_compiled_code_lies_under_the_digest_unless_the_user_names_a_place(tmp_path: Path) -> None:
    assert Path(cache_folder()).name == f"kernels-{kernels_digest()[:16]}"
    assert cache_folder(NUMBA_CACHE_DIR=str(tmp_path)) == str(tmp_path)
