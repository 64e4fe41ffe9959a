"""What else decides on the bytes of a shard: the versions of what reads, decodes and writes images."""

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

from PIL import features

import pipeline
import tools.shards
from pipeline.installed import dali_build
from pipeline.program import sources_digest

_OF_PILLOW = ("libjpeg_turbo", "webp", "zlib", "libtiff", "jpg_2000")


@cache
def versions() -> dict[str, str]:
    """Versions by name, of this host; this project's own sources by a digest, since a working copy has no version.

    Raises what ``dali_build`` raises.
    """
    own = [Path(tools.shards.__file__).parent, Path(pipeline.__file__).parent]
    packages = ("pillow", "numpy", "webdataset", dali_build())
    return {
        "this project's sources": sources_digest(own)[:12],
        "Python": platform.python_version(),
        **{package: version(package) for package in packages},
        **{f"Pillow's {name}": features.version(name) or "none" for name in _OF_PILLOW},
        "jpegtran": _jpegtran(),
    }


def _jpegtran() -> str:
    try:
        done = subprocess.run(["jpegtran", "-version"], capture_output=True, text=True, check=False, input="")
    except OSError:
        return "none"
    return (done.stderr or done.stdout).strip().splitlines()[0] if (done.stderr or done.stdout).strip() else "unknown"


def describe_versions(theirs: dict[str, str], ours: dict[str, str]) -> str:
    """What differs, in words: ``pillow 12.0.0 and 13.0.0``; empty where nothing does."""
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return ", ".join(f"{name} {theirs.get(name)} and {ours.get(name)}" for name in names)
