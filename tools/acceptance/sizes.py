"""How much each stage does: all of it, what seven minutes of a GPU hold, or what a CPU tries in a minute."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """How much the stages do.

    Attributes:
        data: of the smoke runs, keys below ``data``: the side of an image and of a patch, in pixels.
        model: of the smoke runs, timm's own arguments of ``vit_tiny_patch16_224``.
        batch_size, num_steps: of a smoke run.
        num_runs: how many of ``runs.RUNS`` that this machine can make; None: all.
        num_resumed: how many of ``runs.RESUMED`` likewise.
        num_lanes: processes that make smoke runs side by side.
        update_model: timm's name and arguments of the model whose update is counted.
        update_batch_size: images of its batches.
        loader_threads: numbers of decoding threads; those beyond the machine's cores are left out.
        loader_keep_rates: to measure the loader at.
        loader_batch_size, loader_images: in a batch, and for each thread in one measurement.
        loader_repeats: of each measurement.
    """

    data: dict[str, int]
    model: dict[str, int]
    batch_size: int
    num_steps: int
    num_runs: int | None
    num_resumed: int | None
    num_lanes: int
    update_model: tuple[str, dict[str, Any]]
    update_batch_size: int
    loader_threads: tuple[int, ...]
    loader_keep_rates: tuple[float, ...]
    loader_batch_size: int
    loader_images: int
    loader_repeats: int


SIZES = {
    "full": Size(
        data={"image_size": 224, "patch_size": 16},
        model={"embed_dim": 192, "depth": 4, "num_heads": 3},
        batch_size=32,
        num_steps=30,
        num_runs=None,
        num_resumed=None,
        num_lanes=3,
        update_model=("vit_base_patch16_224", {}),
        update_batch_size=32,
        loader_threads=(2, 4, 8, 16),
        loader_keep_rates=(0.2, 0.6, 1.0),
        loader_batch_size=256,
        loader_images=2048,
        loader_repeats=3,
    ),
    "quick": Size(
        data={"image_size": 224, "patch_size": 16},
        model={"embed_dim": 192, "depth": 4, "num_heads": 3},
        batch_size=32,
        num_steps=20,
        num_runs=None,
        num_resumed=1,
        num_lanes=3,
        update_model=("vit_base_patch16_224", {}),
        update_batch_size=32,
        loader_threads=(4, 16),
        loader_keep_rates=(0.2, 1.0),
        loader_batch_size=256,
        loader_images=1024,
        loader_repeats=1,
    ),
    "dry-run": Size(
        data={"image_size": 32, "patch_size": 8},
        model={"embed_dim": 48, "depth": 1, "num_heads": 3},
        batch_size=8,
        num_steps=20,
        num_runs=2,
        num_resumed=1,
        num_lanes=1,
        update_model=("vit_tiny_patch16_224", {"embed_dim": 48, "depth": 1, "num_heads": 3}),
        update_batch_size=4,
        loader_threads=(1,),
        loader_keep_rates=(0.5,),
        loader_batch_size=8,
        loader_images=32,
        loader_repeats=1,
    ),
}
