"""Models as DeepSpeed casts them under bf16: the parameters alone, and no buffer."""

import pytest
import torch
from patch_models import MODELS, make_pair


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_whose_parameters_alone_were_cast_computes_in_bf16(kind: str) -> None:
    model, _ = make_pair(kind)
    height, width = model.patch_embed.patch_size
    patches = torch.randint(0, 256, (2, 5, height * width * 3), dtype=torch.uint8)
    ids = torch.arange(5, dtype=torch.int32).expand(2, -1)
    exact = model(patches, ids).detach()
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    logits = model(patches, ids)
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - exact).abs().max() <= 0.1 * exact.abs().max()
    logits.sum().backward()
