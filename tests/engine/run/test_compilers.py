from pathlib import Path

import pytest

from engine.run.compilers import check_can_compile


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without compilers, and a folder of Python's headers."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "Python.h").touch()
    return tmp_path


def install(folder: Path, name: str) -> None:
    (folder / name).touch(mode=0o755)


@pytest.mark.parametrize(("device", "program"), [("cuda", "gcc"), ("cuda", "clang"), ("cpu", "g++")])
def test_a_compiler_for_the_device_and_the_headers_are_all_it_takes(bare: Path, device: str, program: str) -> None:
    install(bare, program)
    check_can_compile(device, bare)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cuda", "needs a C compiler, but there is no gcc or clang"),
        ("cpu", r"needs a C\+\+ compiler, but there is no g"),
    ],
)
def test_without_a_compiler_the_error_says_what_to_install(bare: Path, device: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"{words}.*apt-get install build-essential.*or set engine.compile: false"):
        check_can_compile(device, bare)


def test_the_compiler_that_is_named_is_the_one_that_is_looked_for(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(bare, "gcc")
    monkeypatch.setenv("CC", "gcc-14 -pipe")
    with pytest.raises(ValueError, match="CC names gcc-14 -pipe, which is not here"):
        check_can_compile("cuda", bare)
    install(bare, "gcc-14")
    check_can_compile("cuda", bare)


def test_without_pythons_headers_the_error_names_their_package(bare: Path) -> None:
    install(bare, "gcc")
    (bare / "Python.h").unlink()
    with pytest.raises(ValueError, match=r"Python's headers, but there is no .*Python\.h: .*apt-get install python3"):
        check_can_compile("cuda", bare)
