"""The section ``optim`` of a run's configuration."""

from typing import Annotated

from pydantic import Field

from engine.values.decay import DECAYS
from pipeline.settings import Duration, DurationField, Settings, one_of

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Settings):
    """AdamW with linear warm-up and cosine decay, per step."""

    lr: float = Field(gt=0, le=1000, description="peak learning rate, for this global batch size")
    final_lr: float = Field(0.0, ge=0, le=1000, description="learning rate that the cosine ends at")
    weight_decay: float = Field(
        0.05, ge=0, le=1000, description="AdamW's; norms, biases, layer scales, positions and class tokens get none"
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="AdamW's, of the gradient and of its square")
    eps: float = Field(1e-8, gt=0, le=1, description="AdamW's, added to the denominator")
    warmup: DurationField = Field(
        Duration.parse("0steps"), description="steps in which the learning rate rises from 0 to lr, linearly"
    )
    layer_decay: float | None = Field(None, gt=0, le=1, description="learning rate factor per layer below the head")
    decay_over: Annotated[str, one_of(DECAYS)] = Field(
        "steps",
        description="what the cosine counts after the warm-up; "
        + "; ".join(f"{name}: {decay.about}" for name, decay in DECAYS.items()),
    )
