"""DALI nodes around the compiled kernels: one call per image, in DALI's own threads, without Python."""

from functools import cache
from typing import Any

import numpy as np
from nvidia.dali import types
from nvidia.dali.plugin.numba import NumbaFunction

from pipeline.graph.kernels import entries, sampling

Node = Any
# How the resampling kernel knows the rules that it scores from samples of an image that is not resized yet.
THUMBNAILS = {"contrast": 1}


class _Compiled(NumbaFunction):
    """DALI's operator around functions that numba has compiled for it, or found in its cache.

    As it is, it compiles anew whenever it is made, which takes seconds for every rank and every graph.
    """

    def _get_run_fn_cpu(self, run_fn: Any, *_: Any) -> int:
        return int(run_fn.address)

    def _get_setup_fn_cpu(self, setup_fn: Any) -> int:
        return int(setup_fn.address)


@cache
def _operator(run: str, setup: str, num_outs: int, num_images: int, num_numbers: int) -> _Compiled:
    """Made once in a process; any number of graphs may call it.

    Inputs: ids int32 [K], a blank patch and images uint8 [H, W, 3], numbers float32 [n].
    Outputs: one is patches uint8 [K, P*P*3] or ids int32 [K], by ``setup``; two are both.
    """
    ids_only = setup == "ids_setup"
    outs = [(types.INT32, 1)] if ids_only else [(types.UINT8, 2), (types.INT32, 1)][:num_outs]
    ins = [(types.INT32, 1), *[(types.UINT8, 3)] * (1 + num_images), *[(types.FLOAT, 1)] * num_numbers]
    return _Compiled(
        run_fn=getattr(entries, run),
        setup_fn=getattr(entries, setup),
        out_types=[kind for kind, _ in outs],
        outs_ndim=[ndim for _, ndim in outs],
        in_types=[kind for kind, _ in ins],
        ins_ndim=[ndim for _, ndim in ins],
    )


def sampling_rows(
    regions: np.ndarray,
    windows: np.ndarray,
    flips: np.ndarray,
    settings: tuple[int, float, str | None],
    mixing: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
) -> np.ndarray:
    """What ``select_then_resample`` is planned by: float32 [B, 26].

    Args:
        regions: float32 [B, 4], (top, left, bottom, right) of the crop in pixels of the window.
        windows: int32 [B, 4], the same of the window in the given image: as much as the resize's filter may look at.
        flips: bool [B].
        settings: patches along one side of the image, temperature, name of the rule's kernel, None where the choice is
            planned.
        mixing: place of the partner int [B], own share float32 [B], box int32 [B, 4] of what cutmix takes from it.
    """
    rows = np.zeros((len(regions), sampling.NUM_SAMPLING), dtype=np.float32)
    own = np.concatenate([regions, flips[:, None]], axis=1)
    rows[:, sampling.OWN_REGION : sampling.OWN_REGION + 5] = own
    rows[:, sampling.OWN_WINDOW : sampling.OWN_WINDOW + 4] = windows
    rows[:, sampling.WEIGHT] = 1
    if mixing is not None:
        partner, weight, box = mixing
        rows[:, sampling.PARTNER_REGION : sampling.PARTNER_REGION + 5] = own[partner]
        rows[:, sampling.PARTNER_WINDOW : sampling.PARTNER_WINDOW + 4] = windows[partner]
        rows[:, sampling.WEIGHT] = weight
        rows[:, sampling.BOX : sampling.BOX + 4] = box
    grid_size, temperature, kernel = settings
    rows[:, [sampling.GRID_SIZE, sampling.TEMPERATURE]] = grid_size, temperature
    rows[:, sampling.SCORED] = 0 if kernel is None else THUMBNAILS[kernel]
    return rows


def _blank(patch_size: int) -> Node:
    return types.Constant(np.zeros((patch_size, patch_size, 3), dtype=np.uint8), device="cpu")


def keep_best(kernel: str, images: Node, ids: Node, noise: Node, temperature: float, patch_size: int) -> Node:
    """The ids kept under a rule that a kernel scores, int32 [K], of images uint8 [S, S, 3].

    Args:
        kernel: as in the table of rules.
        ids: int32 [K]; only its length counts.
        noise: float32 [N] under a temperature, else of any length.
    """
    operator = _operator(f"{kernel}_run", "ids_setup", 1, 1, 2)
    constant = types.Constant(np.array([temperature], dtype=np.float32), device="cpu")
    return operator(ids, _blank(patch_size), images, noise, constant)


def gather(images: Node, ids: Node, patch_size: int) -> Node:
    """Patches uint8 [K, P*P*3] of images uint8 [S, S, 3] at ids int32 [K]."""
    return _operator("gather_run", "patches_setup", 1, 1, 0)(ids, _blank(patch_size), images)


def select_then_resample(
    images: Node, partners: Node, ids: Node, sampling: Node, noise: Node, patch_size: int
) -> tuple[Node, Node]:
    """(patches uint8 [K, P*P*3], ids int32 [K]) of decoded images uint8 [H, W, 3].

    Args:
        partners: the images that they are mixed with; ``images`` where nothing is mixed.
        ids: int32 [K], what is kept if that is planned; else only its length counts.
        sampling: float32 [26] as ``kernels.resampling`` reads it.
        noise: float32 [N] under a temperature, else of any length.
    """
    operator = _operator("resample_run", "patches_setup", 2, 2, 2)
    return tuple(operator(ids, _blank(patch_size), images, partners, sampling, noise))
