"""Packages of a Debian or Ubuntu machine's archive: fetched and unpacked, not installed. Nobody needs to be root."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_COMMAND_TIMEOUT_S = 300


@contextmanager
def unpacked_package(name: str, cache: Path) -> Iterator[Path]:
    """A folder in ``cache`` that holds the package's files as below ``/``, until the block is left.

    Raises FileNotFoundError on a machine without Debian's tools, subprocess.SubprocessError where one of them fails
    (``reason_of`` says why).
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise FileNotFoundError("this machine has no apt-get and dpkg-deb")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".apt-") as temporary:
        work = Path(temporary).resolve()
        options = ["-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20"]
        try:
            _run(["apt-get", *options, "download", name], work)
        except subprocess.CalledProcessError:
            # Fresh containers have no package lists, and the system's own are root's: keep private ones.
            for folder in ("lists/partial", "cache/archives/partial"):
                (work / folder).mkdir(parents=True)
            options += ["-o", f"Dir::State::lists={work / 'lists'}", "-o", f"Dir::Cache={work / 'cache'}"]
            _run(["apt-get", *options, "update"], work)
            _run(["apt-get", *options, "download", name], work)
        (package,) = work.glob("*.deb")
        _run(["dpkg-deb", "-x", str(package), str(work / "unpacked")], work)
        yield work / "unpacked"


def reason_of(error: Exception) -> str:
    """One line: what apt-get says where it failed, or the error's last line."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in (error.stderr or "").splitlines() if line.startswith("E:")]
        return lines[-1] if lines else f"{' '.join(error.cmd[:1])} ended with code {error.returncode}"
    return (str(error) or type(error).__name__).splitlines()[-1]


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(
        command,
        cwd=folder,
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT_S,
    )
