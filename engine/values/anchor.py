"""The key ``train.anchor`` of a run's configuration."""

from pathlib import Path

from pydantic import Field

from pipeline.settings import Settings, UserPath


class AnchorConfig(Settings):
    """A penalty on leaving the weights that training starts from: strength / 2 * sum(F * (w - start)^2)."""

    strength: float = Field(gt=0, le=1e12, description="how much the penalty counts beside the loss")
    fisher: UserPath | None = Field(
        None,
        description="F, a weight's Fisher information, from a file that python -m tools.fisher wrote; null: 1 for all",
    )


def check_anchor(anchor: AnchorConfig | None, pretrained: str | None, zero_stage: int) -> None:
    """Raise ValueError if there is nothing to hold to, or the engine divides what is held."""
    if anchor is None:
        return
    if pretrained is None:
        raise ValueError(
            "train.anchor holds weights near those that training starts from, and model.pretrained is null; set "
            "model.pretrained, such as local-dir:runs/NAME/model, or leave train.anchor out"
        )
    if zero_stage == 3:
        raise ValueError(
            "train.anchor needs whole weights on every rank, which engine.zero_stage 3 divides; choose "
            "engine.zero_stage 0, 1 or 2, or leave train.anchor out"
        )


def check_fisher_file(path: Path) -> None:
    """Raise FileNotFoundError, with the command that makes it, if there is no such file."""
    if not path.is_file():
        raise FileNotFoundError(
            f"train.anchor.fisher: {path} is not there; python -m tools.fisher RUN --out {path} makes it"
        )
