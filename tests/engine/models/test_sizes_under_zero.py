"""Updates at changing image and patch sizes, with parameters divided among two ranks or whole."""

import json
from pathlib import Path

import numpy as np
import pytest
from launching import deepspeed

from benchmarks.shared.toy_data import write_toy_config

STEPS_AT_SIZES = Path(__file__).parent / "steps_at_sizes.py"
MODELS = {
    "vit": ["model.name=vit_tiny_patch16_224"],
    "beit": ["model.name=beit_base_patch16_224", "model.options.use_abs_pos_emb=true"],
    "eva": ["model.name=eva02_tiny_patch14_224"],
    "learned rotary": ["model.name=vit_small_patch16_rope_mixed_ape_224"],
}
# Stage 3 alone divides the parameters that positions and kernels are resampled from.
EVERY_STAGE = ((0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (0, "bf16"), (3, "bf16"))
WHOLE_AND_DIVIDED = ((0, "fp32"), (3, "fp32"), (3, "bf16"))
STAGES = {name: EVERY_STAGE if name == "vit" else WHOLE_AND_DIVIDED for name in MODELS}


def stages_of(precision: str) -> list[tuple[str, int]]:
    """Each model with the stages that are held against the whole float32 one."""
    held = [(name, stage, at) for name, stages in STAGES.items() for stage, at in stages if (stage, at) != (0, "fp32")]
    return [(name, stage) for name, stage, at in held if at == precision]


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Of each update, by the model's name, ZeRO's stage and the precision."""
    folder = tmp_path_factory.mktemp("sizes")
    config = str(write_toy_config(folder / "toy.yaml", folder))
    jobs = {
        f"{name}, {stage}, {precision}": [config, *model, f"engine.zero_stage={stage}", f"engine.precision={precision}"]
        for name, model in MODELS.items()
        for stage, precision in STAGES[name]
    }
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = deepspeed(2, STEPS_AT_SIZES, folder / "jobs.json", folder / "losses.json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "losses.json").read_text())


@pytest.mark.parametrize(("name", "stage"), stages_of("fp32"))
def test_dividing_parameters_among_ranks_changes_no_loss_at_any_size(
    name: str, stage: int, losses: dict[str, list[float]]
) -> None:
    np.testing.assert_allclose(losses[f"{name}, {stage}, fp32"], losses[f"{name}, 0, fp32"], rtol=1e-5)
    assert len(set(losses[f"{name}, 0, fp32"])) == len(losses[f"{name}, 0, fp32"])


@pytest.mark.parametrize(("name", "stage"), stages_of("bf16"))
def test_bf16_differs_by_its_rounding_at_every_size(name: str, stage: int, losses: dict[str, list[float]]) -> None:
    np.testing.assert_allclose(losses[f"{name}, {stage}, bf16"], losses[f"{name}, 0, fp32"], rtol=0.05)
