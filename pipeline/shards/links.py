"""A folder of links to tars that lie where nothing can be written: the index and its like lie beside the links.

For whoever opens that folder it is a folder of shards like any other.
"""

import os
from collections.abc import Iterable
from pathlib import Path


def link_tars(tars: Iterable[Path], folder: Path) -> list[Path]:
    """Make the folder, if need be, and a symbolic link in it to each tar, under the tar's name. Returns the links.

    Links whose tars are gone are removed. Raises ValueError where the folder is that of the tars, or holds another file
    under the name of one, OSError where links cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.tar"):
        if old.is_symlink() and not old.exists():
            old.unlink()
    links = []
    for tar in tars:
        target, link = Path(os.path.abspath(tar)), folder / tar.name
        if folder.resolve() == tar.parent.resolve():
            raise ValueError(f"--out {folder} is the folder of the tars; leave it out, or name another")
        if not os.path.lexists(link):
            link.symlink_to(target)
        elif not (link.is_symlink() and link.samefile(tar)):
            raise ValueError(f"{link}: is there already, and no link to {target}; name another --out")
        links.append(link)
    return links
