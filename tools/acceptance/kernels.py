"""The loops over pixels, compiled before anything is measured: half a minute of a core on a fresh machine."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engine.config import load_config
from engine.prepare import prepare
from engine.ranks.world import World
from tools.acceptance.runs import smoke_config, write_config
from tools.acceptance.sizes import Size
from tools.profile.bench import Bench

# Between them they take every way through the kernels of training.
WAYS: dict[str, dict[str, Any]] = {
    "random": {"selection": {"rule": "random"}},
    "contrast": {"selection": {"rule": "contrast"}},
    "recipe": {
        "selection": {"rule": "magnitude"},
        "data.augment": {"auto": {"kind": "randaugment"}, "mixup": 0.8, "cutmix": 1.0, "erase_probability": 0.25},
    },
}


def compile_kernels(way: str, size: Size, photographs: Path, world: World) -> dict[str, Any]:
    """Make a few batches on the CPU in one of ``WAYS``; what numba compiles for them stays in its cache."""
    with TemporaryDirectory() as folder:
        path = write_config(smoke_config(photographs, size), Path(folder) / "kernels.yaml")
        prepared = prepare(load_config(path, [f"{key}={value}" for key, value in WAYS[way].items()]), world)
        bench = Bench(prepared, world, trains=False)
        taken = bench.time_loader(prepared.plan.schedule.stage(0), 1)
    return {"way": way, "seconds": round(taken.elapsed_s, 2), "problems": []}
