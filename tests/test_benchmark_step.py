"""The training step beside other ways to drop patches: all pay for the same, and keep as many patches."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import step
from benchmarks.step import NUM_PATCHES, WAYS, Way, draw_inputs, normalizer, training_step

CPU = torch.device("cpu")
TINY = "vit_tiny_patch16_224"


def made(name: str, depth: int = 1) -> Way:
    """A way with a single block, so that a step takes a moment."""
    way = WAYS[name](TINY, CPU)
    way.model.blocks = way.model.blocks[:depth]
    return way


def test_what_is_kept_lies_at_the_ids_of_the_images_patches() -> None:
    found = draw_inputs(3, (0.2, 0.6), CPU)
    assert list(found) == [38, 117, NUM_PATCHES]
    for num_kept, inputs in found.items():
        assert inputs.num_kept == num_kept
        assert inputs.patches.shape == (3, num_kept, 768)
        assert bool((inputs.ids.diff(dim=1) > 0).all())
        for image, patches, ids in zip(inputs.images, inputs.patches, inputs.ids, strict=True):
            for patch, number in zip(patches, ids.tolist(), strict=True):
                row, column = 16 * (number // 14), 16 * (number % 14)
                tile = image[:, row : row + 16, column : column + 16]
                assert torch.equal(patch, tile.permute(1, 2, 0).reshape(-1))


@pytest.mark.parametrize("name", WAYS)
def test_the_blocks_of_every_way_see_as_many_patches_as_are_kept(name: str) -> None:
    way, seen = made(name), list[int]()
    way.model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1] - 1))
    for inputs in draw_inputs(1, (0.2, 0.6), CPU).values():
        way.logits(inputs)
    assert seen == ([NUM_PATCHES] * 3 if name == "timm" else [38, 117, NUM_PATCHES])


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("in_bf16", [False, True])
def test_every_way_trains_float32_weights_by_one_loop_in_the_same_precision(name: str, in_bf16: bool) -> None:
    way, precisions = made(name), set[torch.dtype]()
    way.model.blocks[0].attn.qkv.register_forward_hook(lambda _, __, output: precisions.add(output.dtype))
    some = next(way.model.parameters())
    before = some.detach().clone()
    training_step(way, in_bf16=in_bf16)(draw_inputs(2, (0.2,), CPU)[38])
    assert precisions == {torch.bfloat16 if in_bf16 else torch.float32}
    assert {parameter.dtype for parameter in way.model.parameters()} == {torch.float32}
    assert not torch.equal(some, before)
    assert all(parameter.grad is None for parameter in way.model.parameters())


def test_images_are_normalised_by_constants_that_were_made_before(monkeypatch: pytest.MonkeyPatch) -> None:
    normalized = normalizer(CPU)
    images = torch.full((1, 3, 2, 2), 128, dtype=torch.uint8)
    monkeypatch.delattr(torch, "tensor")
    for channel, (mean, std) in enumerate(zip(step.MEAN, step.STD, strict=True)):
        assert normalized(images)[0, channel].flatten().tolist() == pytest.approx([(128 / 255 - mean) / std] * 4)


def test_a_result_names_what_took_part_and_in_what_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step, "keep_to_cores", lambda cores: None)
    monkeypatch.setattr(step.torch, "set_num_threads", lambda threads: None)
    short = {name: made(name) for name in ("timm", "ours")}
    for name, way in short.items():
        monkeypatch.setitem(WAYS, name, lambda *_, way=way: way)
    arguments = ["--ways", "ours", "--keep-rates", "0.2", "--precision", "bf16", "--batch-size", "1", "--repeats", "2"]
    step.main([*arguments, "--steps", "2", "--out", str(tmp_path / "step.json")])
    result = json.loads((tmp_path / "step.json").read_text())
    assert [(line["way"], line["num_kept"]) for line in result["steps"]] == [("ours", 38), ("timm", NUM_PATCHES)]
    assert (result["precision"], result["device"], result["repeats"], result["steps_in_a_row"]) == ("bf16", "cpu", 2, 2)
    assert all(len(line["step_s"]["values"]) == 2 for line in result["steps"])
    assert "bf16, batches of 1 on the cpu: 2 x 2 steps of each" in capsys.readouterr().out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
@pytest.mark.parametrize("name", WAYS)
def test_every_way_is_measured_on_a_gpu(name: str) -> None:
    device = torch.device("cuda")
    way = WAYS[name](TINY, device)
    inputs = draw_inputs(4, (0.2,), device)[NUM_PATCHES if name == "timm" else 38]
    train = training_step(way, in_bf16=True)
    times = step.measure({(name, inputs.num_kept): lambda: train(inputs)}, 2, 3, device)
    assert {parameter.device.type for parameter in way.model.parameters()} == {"cuda"}
    assert all(taken_s > 0 for taken_s in times[name, inputs.num_kept])
