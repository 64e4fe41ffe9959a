"""What a finished toy run leaves behind, as far as tools look at it, without the training."""

from pathlib import Path

from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from engine.config import RunConfig, dump_config, load_config
from engine.evaluation.trained import build_run_model
from engine.models.weights import export_model


def write_finished_run(folder: Path, overrides: list[str] | None = None) -> Path:
    """``folder/run`` with its configuration and an exported model of random weights; the shards lie beside it."""
    (folder / "shards").mkdir()
    config = load_config(write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards")), overrides)
    return export_of_random_weights(folder / "run", config)


def export_of_random_weights(run: Path, config: RunConfig) -> Path:
    """The run folder ``run``: the configuration, and an exported model of random weights."""
    model = build_run_model(config)
    run.mkdir()
    (run / "config.yaml").write_text(dump_config(config))
    export_model(
        model.state_dict(),
        run / "model",
        timm_name=model.timm_name,
        model_args=model.timm_args,
        data=config.data,
        class_names=None,
    )
    return run
