"""The configuration of a run: one YAML file, checked whole before anything starts."""

import os.path
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from engine.values.anchor import AnchorConfig, check_anchor
from engine.values.autos import Weights, numbers_of, without_autos
from engine.values.optim import OptimConfig
from engine.values.text import apply_override, cut, explain
from pipeline.config import DataConfig
from pipeline.graph.route import Route, check_route, route_of
from pipeline.plan.examples import check_fits
from pipeline.plan.schedule import ScheduleConfig, num_kept_at
from pipeline.plan.sizes import check_sizes
from pipeline.selection.config import SelectionConfig
from pipeline.settings import MOST_IMAGES, MOST_STEPS, MOST_THREADS, DurationField, Settings
from pipeline.yaml_file import ConfigError, read_yaml

MOST_S = 1e9  # a lifetime; threads cannot wait much longer
_MOST_OF_AN_OPTION = 10**6
_MOST_DEPTH = 1000
_MOST_LISTED = 10  # faults of one configuration


def _plain(value: Any, levels: int = 4) -> Any:
    """An option as it is. Raises ValueError for what is no plain value, or a number that no model has."""
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, int | float):
        if not abs(value) <= _MOST_OF_AN_OPTION:
            raise ValueError(f"a number is at most {_MOST_OF_AN_OPTION:,} here, and finite")
        return value
    if isinstance(value, list | dict) and levels:
        for one in value if isinstance(value, list) else [*value, *value.values()]:
            _plain(one, levels - 1)
        return value
    raise ValueError("a number, text, true, false, null, or a list or a mapping of these is asked for")


Option = Annotated[Any, AfterValidator(_plain)]


def _timms_or_none(value: Any) -> Any:
    """``pretrained: true`` is timm's own way to ask for the weights that it publishes."""
    return {True: "timm", False: None}[value] if isinstance(value, bool) else value


class ModelConfig(Settings):
    """A timm Vision Transformer of the plain ViT and DeiT, distilled DeiT, BEiT or EVA families."""

    name: str = Field(description="timm's name, such as vit_small_patch16_224 or beit_base_patch16_224")
    options: dict[str, Option] = Field({}, description="timm's own arguments, such as embed_dim, depth, num_heads")
    pretrained: Annotated[str | None, BeforeValidator(_timms_or_none)] = Field(
        None,
        description="timm (or true), local-dir:DIR, or a .safetensors, .pth, .pth.tar, .pt, .bin or .ckpt file (also "
        "MAE's, SimMIM's, DINO's and MoCo's); null or false: none",
    )
    pretrained_key: str | None = Field(
        None,
        min_length=1,
        description="which set of weights to take of a file that holds several, such as state_dict_ema or student; "
        "null: the weights before their average, a teacher before its student",
    )
    reset_head: bool = Field(
        False, description="the classifier stays fresh even where the weights hold one of the same size"
    )
    head_init_std: float | None = Field(
        None,
        ge=0,
        le=100,
        description="standard deviation of a fresh classifier's weight (truncated normal, bias zero); null: timm's way",
    )
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth rate of the last block")
    drop_rate: float = Field(0.0, ge=0, lt=1, description="dropout before the classifier")

    @field_validator("pretrained")
    @classmethod
    def _with_the_home_folder(cls, source: str | None) -> str | None:
        kind, colon, place = (source or "").rpartition(":")
        return source and kind + colon + os.path.expanduser(place)

    @model_validator(mode="after")
    def _a_key_of_a_file(self) -> "ModelConfig":
        if self.pretrained_key is not None and self.pretrained in (None, "timm"):
            raise ValueError(
                f"pretrained_key {self.pretrained_key} chooses among the weights of a file, and pretrained is "
                f"{self.pretrained or 'null'}; set pretrained to the file, or leave pretrained_key out"
            )
        return self

    @field_validator("options")
    @classmethod
    def _has_an_end(cls, options: dict[str, Any]) -> dict[str, Any]:
        depth = options.get("depth")
        if isinstance(depth, int) and depth > _MOST_DEPTH:
            raise ValueError(f"depth is at most {_MOST_DEPTH}, got {depth}")
        return options


class TrainConfig(Settings):
    """How long, and on how many images at a time."""

    duration: DurationField = Field(description="such as 90epochs, 500steps or 1000000samples")
    global_batch_size: int = Field(ge=1, le=MOST_IMAGES, description="images per optimizer step over all ranks")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        le=MOST_IMAGES,
        description="images per forward pass on one rank; default: the rank's whole share of the batch",
    )
    tokens_per_micro_batch: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="instead of micro_batch_size: micro batches grow where an image has fewer tokens (its kept patches "
        "and one more), to as many images as have this many; the global batch stays",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that is spread over all classes")
    loss: Literal["cross_entropy", "binary_cross_entropy"] = Field(
        "cross_entropy", description="binary_cross_entropy: a yes-or-no loss per class, its mean over the classes"
    )
    clip_grad_norm: float | None = Field(1.0, gt=0, le=1e6, description="null: no clipping")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="evaluate and export a moving average of the weights, of which each step keeps this share, such as "
        "0.9999; null: the weights themselves",
    )
    anchor: AnchorConfig | None = Field(
        None, description="hold weights near those of model.pretrained, such as {strength: 0.01}; null: they are free"
    )

    @model_validator(mode="after")
    def _one_size_of_micro_batches(self) -> "TrainConfig":
        if self.micro_batch_size is not None and self.tokens_per_micro_batch is not None:
            raise ValueError("micro_batch_size and tokens_per_micro_batch both size the micro batches; set one of them")
        return self


class PretrainConfig(Settings):
    """The decoder and the loss of a masked autoencoder; the encoder is the model."""

    decoder_dim: int = Field(512, ge=4, le=65_536, multiple_of=4, description="width of the decoder's tokens")
    decoder_depth: int = Field(8, ge=1, le=1000, description="blocks of the decoder")
    decoder_heads: int = Field(
        16, ge=1, le=65_536, description="attention heads of a decoder's block; divides decoder_dim"
    )
    norm_targets: bool = Field(True, description="each target patch is brought to mean 0 and variance 1")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "PretrainConfig":
        if self.decoder_dim % self.decoder_heads:
            raise ValueError(f"decoder_heads {self.decoder_heads} does not divide decoder_dim {self.decoder_dim}")
        return self


class EngineConfig(Settings):
    """What DeepSpeed is asked to do."""

    zero_stage: Literal[0, 1, 2, 3] = Field(
        0,
        description="what ranks divide among them instead of each holding all: 0 nothing, 1 the optimizer's state, "
        "2 gradients too, 3 weights too",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="bf16 at zero_stage 0: float32 weights, matrix products in bfloat16 by autocast; at 1 to 3: "
        "DeepSpeed's, a bfloat16 model with float32 weights for the optimizer",
    )
    tf32: bool = Field(
        True, description="on a GPU: what is multiplied in float32 has its factors rounded to TF32 (10 bits), faster"
    )
    checkpoint_activations: bool = Field(
        False, description="compute activations again in the backward pass instead of keeping them: less memory, slower"
    )
    compile: bool = Field(
        False,
        description="blocks through torch.compile, for every stage before training starts; not in evaluation. Needs a "
        "compiler and Python's headers",
    )
    num_threads: int | None = Field(
        None, ge=1, le=MOST_THREADS, description="torch threads per rank; default: the rank's cores, on a GPU 4 of them"
    )
    stop_grace_s: float = Field(
        60.0,
        gt=0,
        le=MOST_S,
        description="after a signal to stop: for the next step boundary, and again for the checkpoint there",
    )
    stall_report_s: float = Field(
        300.0, gt=0, le=MOST_S, description="a rank that has not moved on for this long is named"
    )

    @model_validator(mode="after")
    def _compiles_whole_weights(self) -> "EngineConfig":
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile needs whole weights on every rank, which zero_stage 3 divides; choose zero_stage 0, 1 or 2, "
                "or leave compile out"
            )
        return self


class EvalConfig(Settings):
    """Validation, each sample exactly once per keep rate."""

    every: DurationField | None = Field(None, description="null: at the end only")
    keep_rates: list[float] = Field(
        [1.0], min_length=1, max_length=1000, description="shares of the patches to validate with, each in (0, 1]"
    )
    micro_batch_size: int = Field(128, ge=1, le=MOST_IMAGES, description="images per forward pass on one rank")


class CheckpointConfig(Settings):
    """When a run can be taken up again; there is always a checkpoint at the end."""

    every: DurationField | None = Field(None, description="null: at the end only")
    keep_last: int = Field(2, ge=1, le=10**6, description="older checkpoints are deleted")
    keep_every: DurationField | None = Field(
        None, description="the first checkpoint at or after each multiple of this is never deleted; null: none is kept"
    )


class WandbConfig(Settings):
    """Where Weights & Biases keeps the run; key and mode come from its own environment variables."""

    project: str = Field(description="name of the project that the run belongs to")
    entity: str | None = Field(None, description="user or team; null: the account's own")


class MonitorConfig(Settings):
    """Who gets the lines of metrics.jsonl besides. Needs packages: pip install '.[tensorboard]' or '.[wandb]'."""

    tensorboard: bool = Field(False, description="event files in the run folder's tensorboard/")
    wandb: WandbConfig | None = Field(None, description="such as {project: NAME}; null: not used")


class RunConfig(Settings):
    """Everything a run is made of."""

    name: str = Field(min_length=1, max_length=255, description="the run's name, and that of its folder, runs/NAME")
    task: Literal["classify", "pretrain"] = Field(
        "classify", description="pretrain: reconstruct the dropped patches from the kept ones; labels are not used"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="key of everything that is drawn: order, crops, weights and so on")
    data: DataConfig
    selection: SelectionConfig = SelectionConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    model: ModelConfig
    train: TrainConfig
    pretrain: PretrainConfig = PretrainConfig()
    optim: OptimConfig
    engine: EngineConfig = EngineConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    monitor: MonitorConfig = MonitorConfig()
    log_every: int = Field(10, ge=1, le=MOST_STEPS, description="steps between lines of metrics")

    @model_validator(mode="after")
    def _keep_rates_keep_something(self) -> "RunConfig":
        for rate in self.eval.keep_rates:
            try:
                num_kept_at(rate, self.data.num_patches)
            except ValueError as error:
                raise ValueError(f"eval.keep_rates: {error}") from None
        return self

    @model_validator(mode="after")
    def _whole_weights_for_an_average(self) -> "RunConfig":
        if self.train.ema_decay is not None and self.engine.zero_stage == 3:
            raise ValueError(
                "train.ema_decay needs whole weights on every rank, which engine.zero_stage 3 divides; choose "
                "engine.zero_stage 0, 1 or 2, or set train.ema_decay to null"
            )
        return self

    @model_validator(mode="after")
    def _anchored_to_something(self) -> "RunConfig":
        check_anchor(self.train.anchor, self.model.pretrained, self.engine.zero_stage)
        return self

    @property
    def route(self) -> Route:
        """The way from decoded images to kept patches, in training and in validation."""
        return route_of(self.data, self.selection)

    @model_validator(mode="after")
    def _allows_its_route(self) -> "RunConfig":
        check_route(self.data, self.selection)
        return self

    @model_validator(mode="after")
    def _sees_its_examples_once(self) -> "RunConfig":
        if self.schedule.examples is not None:
            echo, repeats = self.data.echo, self.data.augment.repeats
            data = {"is_mixed": isinstance(self.data.train, tuple), "grows": bool(self.data.growth)}
            check_fits(self.schedule.examples, echo=echo, repeats=repeats, task=self.task, **data)
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> "RunConfig":
        scored_by = self.selection.rule if self.selection.needs_model else None
        check_sizes(self.schedule.sizes, self.data, scored_by=scored_by, task=self.task)
        return self

    @model_validator(mode="after")
    def _fits_the_task(self) -> "RunConfig":
        if self.task == "classify":
            if self.pretrain != PretrainConfig():
                raise ValueError("pretrain is set, but task is classify; set task to pretrain or leave pretrain out")
            return self
        if self.schedule.cooldown.amount:
            raise ValueError("schedule.cooldown is at full patches, which leave nothing to reconstruct; set it to 0")
        for key, rates in (("schedule.keep_rate", self.schedule.rates()), ("eval.keep_rates", self.eval.keep_rates)):
            if any(num_kept_at(rate, self.data.num_patches) == self.data.num_patches for rate in rates):
                raise ValueError(f"{key}: a rate keeps every patch and leaves nothing to reconstruct, got {rates}")
        unused = {
            "train.label_smoothing": self.train.label_smoothing,
            "train.anchor": self.train.anchor,
            "model.drop_rate": self.model.drop_rate,
            "optim.layer_decay": self.optim.layer_decay,
        }
        for key, value in unused.items():
            if value:
                raise ValueError(f"{key} belongs to a classifier; under task pretrain leave it out, got {value}")
        return self


def load_config(
    path: str | Path,
    overrides: list[str] | None = None,
    *,
    going_on: Callable[[str], Mapping[str, Any]] | None = None,
    preview: bool = False,
) -> RunConfig:
    """Read a run's YAML file, apply ``a.b=value`` overrides (values are YAML), look up what is auto, check the result.

    Args:
        going_on: by the run's name, the numbers of the checkpoint that it goes on from, which auto stands for then.
        preview: for whom the numbers that auto stands for do not matter: what would take a look at weights or at data
            is not looked up.

    Raises:
        ConfigError: naming the file, the key, what was received and what is allowed.
    """
    path = Path(path)
    values = read_yaml(path, "configuration")
    if not isinstance(values, dict):
        raise ConfigError(f"{path} should hold a mapping of keys to values, got {type(values).__name__}")
    values.setdefault("name", path.stem)
    for override in overrides or []:
        apply_override(values, override)
    values, autos = without_autos(values)
    config = _checked(path, values)
    if not autos:
        return config
    recorded = {} if going_on is None else going_on(config.name)
    source = Weights(config.model.name, config.model.pretrained)
    try:
        found = numbers_of(autos, config.data, source, recorded, preview=preview)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return _checked(path, {**values, "data": {**values["data"], **found}})


def _checked(path: Path, values: dict[str, Any]) -> RunConfig:
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        lines = [cut(explain(detail, RunConfig), 500) for detail in error.errors()]
        more = len(lines) - _MOST_LISTED
        lines[_MOST_LISTED:] = [f"and {more} more"] if more > 0 else []
        raise ConfigError(f"{path}: " + "; ".join(lines)) from None


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML that ``load_config`` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
