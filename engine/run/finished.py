"""What a finished run has left, as far as nothing must be loaded for that."""

from pathlib import Path

from engine.config import RunConfig, load_config
from pipeline.yaml_file import ConfigError


def finished_config(folder: Path | str, overrides: list[str] | None = None) -> RunConfig:
    """The configuration in a run folder that holds ``config.yaml`` and ``model/``.

    Args:
        overrides: ``a.b=value``, such as another place of the data.

    Raises:
        ValueError, OSError: it is no run folder, or the run is not done.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no run folder: it is not there; give one such as runs/fashion_mnist")
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder} is no run folder: it holds no config.yaml; give one such as runs/fashion_mnist")
    if not (folder / "model").is_dir():
        raise ConfigError(f"the run in {folder} has not exported its model yet; train it to its end first")
    return load_config(folder / "config.yaml", overrides)


def check_classifier(folder: Path | str, config: RunConfig) -> None:
    """Raise ValueError if the run in this folder trained no classifier."""
    if config.task != "classify":
        raise ValueError(f"the run in {folder} is a {config.task} run: its model has no trained classifier")
