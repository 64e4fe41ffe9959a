"""What a finished toy run leaves behind, as far as tools look at it, without the training."""

from pathlib import Path

from benchmarks.shared.toy_data import write_toy_config, write_toy_shards
from engine.config import dump_config, load_config
from engine.evaluation.trained import build_run_model
from engine.models.weights import export_model


def write_finished_run(folder: Path, overrides: list[str] | None = None) -> Path:
    """``folder/run`` with its configuration and an exported model of random weights; the shards lie beside it."""
    (folder / "shards").mkdir()
    config = load_config(write_toy_config(folder / "toy.yaml", write_toy_shards(folder / "shards")), overrides)
    model = build_run_model(config)
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(dump_config(config))
    export_model(
        model.state_dict(),
        folder / "run" / "model",
        timm_name=model.timm_name,
        model_args=model.timm_args,
        data=config.data,
        class_names=None,
    )
    return folder / "run"
