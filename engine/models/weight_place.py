"""Where pretrained weights lie. Nothing here loads torch."""

from pathlib import Path

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar", ".ckpt")


def weights_file(source: str) -> Path:
    """The file that ``local-dir:DIR`` or a path names.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: an unknown kind of source.
    """
    kind, _, folder = source.partition(":")
    if kind == "local-dir":
        files = [Path(folder) / name for name in WEIGHT_FILES]
        found = next((file for file in files if file.is_file()), None)
        if found is None:
            raise FileNotFoundError(f"no weights in {folder}: expected {' or '.join(WEIGHT_FILES)} there")
        return found
    path = Path(source)
    if not path.name.endswith(ENDINGS):
        *first, last = ENDINGS
        hint = f"; for a folder write local-dir:{source}" if path.is_dir() else ""
        raise ValueError(
            f"unknown source of pretrained weights '{source}': give timm, local-dir:DIR, "
            f"or a {', '.join(first)} or {last} file{hint}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no pretrained weights at {path}")
    return path
