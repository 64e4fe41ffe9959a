"""The benchmark of BEiT's bias, with a small BEiT: every way trains, and its page says what was counted."""

import argparse
from typing import Any

import pytest
import torch
from patch_models import SMALL

from benchmarks.attention_bias import ways
from benchmarks.attention_bias.__main__ import all_steps, calls, describe, measure, summarize
from benchmarks.performance import attention_bias_section
from engine.models.build import build_model
from engine.models.patch_embed import PatchModel


def build_small(name: str, *, options: dict[str, Any], **settings: Any) -> PatchModel:
    return build_model(name, options=SMALL | options, **settings)


def test_every_way_takes_a_step_and_none_but_the_earlier_one_sorts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "build_model", build_small)
    settings: dict[str, Any] = {
        "model": "beit_base_patch16_224",
        "num_kept": 20,
        "precision": "fp32",
        "batch_size": 1,
        "cores": 1,
    }
    settings["only"] = list(ways.WAYS)
    cpu = torch.device("cpu")
    steps, alone = all_steps(argparse.Namespace(**settings), cpu)
    found: dict[str, Any] = {"steps": summarize(measure(steps, 2, cpu), cpu)}
    found["bias_alone"] = summarize(measure(alone, 2, cpu), cpu)
    for row in found["steps"]:
        row["calls"] = calls(steps[row["way"]])
    backward = {row["way"]: row["calls"]["embedding_dense_backward"] for row in found["steps"]}
    assert backward == {"ours": 0, "before": SMALL["depth"], "without bias": 0}
    assert describe(found["steps"]).count("\n") == len(steps)
    hardware = {"cpu": "A", "cores": 2, "memory_gib": 4, "torch": "2", "timm": "1", "nvidia-dali-cuda130": "2"}
    told = {"command": "python", "hardware": hardware, "repeats": 2, "load_average_before": 0.0}
    page = attention_bias_section({**told, **settings, **found})
    assert page.count("| step |") == 3
    assert page.count("| bias alone |") == 2


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_earlier_way_and_flex_attention_give_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "build_model", build_small)
    # Not compiled, as torch warns: here it is the result that counts.
    monkeypatch.setattr(ways.FlexBias, "compiled", staticmethod(ways.flex_attention))
    patches, ids = torch.randint(0, 256, (2, 9, 768), dtype=torch.uint8), torch.arange(9).repeat(2, 1)
    model = ways.build("beit_base_patch16_224")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (1.0 if "gamma" in name or "bias_table" in name else 0.1))
        expected = model(patches, ids)
        for attention in (ways.EmbeddedBias, ways.FlexBias):
            for block in model.blocks:
                block.attn = attention(block.attn)
            torch.testing.assert_close(model(patches, ids), expected, rtol=1e-4, atol=1e-4)
