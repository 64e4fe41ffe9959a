"""Every kind of source in one table, and the source that a command line names."""

import importlib
import os.path
import pkgutil
from dataclasses import replace
from pathlib import Path

from tools.shards import sources
from tools.shards.sources.source import Source, SourceKind, SourceOptions

_NO_KINDS = ("source", "table", "split_map", "junk")  # every other file here declares its kind of source as SOURCE


def _collect() -> dict[str, SourceKind]:
    files = [module.name for module in pkgutil.iter_modules(sources.__path__) if module.name not in _NO_KINDS]
    found: list[SourceKind] = [importlib.import_module(f"{sources.__name__}.{name}").SOURCE for name in files]
    assert len({kind.name for kind in found}) == len(found), "two kinds of source have one name"
    return {kind.name: kind for kind in sorted(found, key=lambda kind: (kind.order, kind.name))}


KINDS = _collect()
"""name -> kind of source, in the order in which help and errors list them."""


def allowed_forms() -> str:
    """All that a source may be called, for errors."""
    return ", ".join(form for kind in KINDS.values() for form in kind.forms)


def sources_help() -> str:
    """The same, with a few words on what each needs."""
    return ", ".join(kind.help for kind in KINDS.values())


def open_source(spec: str, root: Path, options: SourceOptions | None = None) -> Source:
    """The source that a command line names, for example ``imagefolder:photos``. root: where downloads are kept.

    Raises ValueError or FileNotFoundError where it is unknown, missing or holds no images, or where an option does not
    fit it.
    """
    kind, place = _kind_and_place(spec)
    options = options or SourceOptions()
    for option in options.given():
        if option not in kind.takes:
            others = ", ".join(other.name for other in KINDS.values() if option in other.takes)
            raise ValueError(f"{option} says nothing about source '{kind.name}'; it is for {others}")
    source = kind.open(place, root, options)
    options.split_map.check_used(spec)
    splits = source.splits
    is_renamed = "val" not in splits and "test" in splits and "train" in splits
    if is_renamed and not options.split_map.names_split("test"):
        # Many data sets publish only train and test; runs look for ``val``.
        splits = {("val" if split == "test" else split): content for split, content in splits.items()}
    for split, content in splits.items():
        if not content.names:
            raise ValueError(f"{spec}: no images in split '{split}'")
    return replace(source, splits=splits)


def check_outside(spec: str, out: Path) -> None:
    """Raises ValueError where shards would be written into the folder that they are made from."""
    kind, place = _kind_and_place(spec)
    if kind.place == "DIR" and place and out.resolve().is_relative_to(Path(place).resolve()):
        raise ValueError(
            f"--out {out} is the source's folder {place} or lies in it, so that its files would be taken for the "
            "source's; name another place"
        )


def _kind_and_place(spec: str) -> tuple[SourceKind, str]:
    name, _, place = spec.partition(":")
    kind = KINDS.get(name)
    if kind is None:
        raise ValueError(f"unknown source '{spec}'; allowed are {allowed_forms()}")
    if kind.needs_place and not place:
        raise ValueError(f"source '{name}' needs a place after a colon; allowed are {allowed_forms()}")
    return kind, os.path.expanduser(place)
