"""A digest of this project's own sources, since a working copy has no version."""

import hashlib
from collections.abc import Sequence
from pathlib import Path


def sources_digest(packages: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of all Python files in some packages, however deep they lie."""
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            digest.update(f"{path.relative_to(package.parent)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
