"""Maps that models make: what a model says of the whole image, cell by cell."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from finished_run import write_finished_run
from patch_models import make_ids, make_images, make_pair
from torch import Tensor

from engine.evaluation.trained import load_trained
from engine.snapshots import take_snapshot
from pipeline.selection.image_maps import scaled, spread
from pipeline.selection.maps import ScoreMaps
from pipeline.shards.index import open_index
from tools.shards.images import pixels_of
from tools.shards.maps.attention import check_class_token, class_attention
from tools.shards.maps.batches import resized
from tools.shards.maps.score import MapJob, score_folder
from tools.shards.maps.shard_images import ShardImages

CONVNET = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_finished_run(tmp_path_factory.mktemp("run"))


def stored(folder: Path, count: int) -> list[np.ndarray]:
    with ShardImages(open_index(folder, "val"), 0, ()) as images:
        return [pixels_of(images.read(row)) for row in range(count)]


def test_magnitude_is_the_norm_of_the_embedded_patch(run: Path) -> None:
    folder = run.parent / "shards"
    score_folder(folder, MapJob(f"magnitude:{run}"), split="val")
    index = open_index(folder, "val")
    trained = load_trained(run)
    snapshot, data = take_snapshot(trained.model, 0), trained.config.data
    for row, image in enumerate(stored(folder, 3)):
        small = resized(image, data.image_size)
        size, norms = data.patch_size, np.zeros((data.grid_size, data.grid_size))
        for i in range(data.grid_size):
            for j in range(data.grid_size):
                patch = small[i * size : (i + 1) * size, j * size : (j + 1) * size].reshape(-1)
                offsets = snapshot.offsets[i * data.grid_size + j if len(snapshot.offsets) > 1 else 0]
                norms[i, j] = np.abs(snapshot.kernel @ patch.astype(np.float32) + offsets).sum()
        found = ScoreMaps(index, "magnitude").grids(np.array([row]))[0]
        assert np.abs(found.astype(int) - spread(norms, 16)).max() <= 1


def test_other_weights_are_another_maker(run: Path) -> None:
    folder = run.parent / "shards"
    job = MapJob(f"attention:{run}")
    assert score_folder(folder, job, split="val")[0].num_made > 0
    assert score_folder(folder, job, split="val")[0].num_made == 0
    facts = ScoreMaps(open_index(folder, "val"), "attention").facts()[0]
    assert facts.kind == f"attention:{run}"
    assert len(facts.made_by["weights_digest"]) == 64


@pytest.mark.parametrize("kind", ["tiny", "registers", "distilled", "BEiT, shared table", "EVA-02", "DINOv3"])
def test_attention_is_that_of_the_class_token_in_the_last_block(kind: str) -> None:
    model, plain = make_pair(kind)
    images, num = make_images(model), model.patch_embed.num_patches
    size = model.patch_embed.patch_size[0]
    side = model.patch_embed.img_size[0] // size
    tiles = images.permute(0, 2, 3, 1).reshape(2, side, size, side, size, 3).permute(0, 1, 3, 2, 4, 5)
    found = class_attention(model, tiles.reshape(2, num, -1))
    seen: list[Tensor] = []
    for block in plain.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, given, out: seen.append(out))
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (model.mean, model.std))
    with torch.no_grad():
        plain.forward_features((images / 255 - mean) / std)
    expected = seen[-1].mean(dim=1)[:, 0, -num:]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    assert model(tiles.reshape(2, num, -1), make_ids(model, num)).shape == (2, 7), "the model goes on as it was"


def test_a_model_without_a_class_token_is_refused_by_name() -> None:
    model, _ = make_pair("average pooling")
    with pytest.raises(ValueError, match=r"model vit_medium_patch16_gap_240 has no class token.*magnitude:RUN"):
        check_class_token(model)


def test_a_convnets_map_is_the_mean_of_its_last_features(run: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(CONVNET).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    folder = run.parent / "shards"
    score_folder(folder, MapJob(f"convnet:{CONVNET}", weights=tmp_path / "weights.pth"), split="val")
    found = ScoreMaps(open_index(folder, "val"), "convnet").grids(np.array([0]))[0]
    image = torch.from_numpy(resized(stored(folder, 1)[0], 224).copy()).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        means = model.forward_features((image - mean) / std).mean(dim=1)[0].numpy()
    assert means.shape == (7, 7)
    assert np.abs(found.astype(int) - spread(means, 16)).max() <= 1
    assert scaled(means).max() == 255


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet_nobody_knows", "timm has no model 'resnet_nobody_knows'"),
        ("vit_tiny_patch16_224", "is no ConvNet: its last features are not channels over a grid"),
        (CONVNET, "has no weights for .* of mobilenetv3_small_050"),
    ],
)
def test_a_convnet_that_cannot_be_used_is_named(run: Path, tmp_path: Path, name: str, said: str) -> None:
    other = "vit_tiny_patch16_224" if name.startswith("vit") else "resnet18"
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model(other).state_dict(), weights)
    with pytest.raises(ValueError, match=said):
        score_folder(run.parent / "shards", MapJob(f"convnet:{name}", weights=weights), split="val")
