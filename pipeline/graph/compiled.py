"""DALI nodes around the compiled kernels: one call per image, in DALI's own threads, without Python."""

from functools import cache
from typing import Any

import numpy as np
from nvidia.dali import types
from nvidia.dali.plugin.numba import NumbaFunction

from pipeline.graph.kernels import entries

Node = Any


class _Compiled(NumbaFunction):
    """DALI's operator around functions that numba has compiled for it, or found in its cache.

    As it is, it compiles anew whenever it is made, which takes seconds for every rank and every graph.
    """

    def _get_run_fn_cpu(self, run_fn: Any, *_: Any) -> int:
        return int(run_fn.address)

    def _get_setup_fn_cpu(self, setup_fn: Any) -> int:
        return int(setup_fn.address)


_IMAGE, _IDS, _NUMBERS, _PATCHES = (types.UINT8, 3), (types.INT32, 1), (types.FLOAT, 1), (types.UINT8, 2)


@cache
def _operator(run: str, setup: str, ins: tuple[Any, ...], outs: tuple[Any, ...]) -> _Compiled:
    """Made once in a process; any number of graphs may call it.

    Args:
        run, setup: names in ``kernels.entries``. ins, outs: DALI type and number of dimensions of each.
    """
    return _Compiled(
        run_fn=getattr(entries, run),
        setup_fn=getattr(entries, setup),
        out_types=[kind for kind, _ in outs],
        outs_ndim=[ndim for _, ndim in outs],
        in_types=[kind for kind, _ in ins],
        ins_ndim=[ndim for _, ndim in ins],
    )


def pixel() -> Node:
    """What stands for an image that is not there."""
    return types.Constant(np.zeros((1, 1, 3), dtype=np.uint8), device="cpu")


def augment_whole(side: Node, images: Node, planned: Node) -> Node:
    """Whole images after their operations, before they are mixed, uint8 [S, S, 3], or single pixels.

    Args:
        side: uint8 [S, 0] where an image is wanted, else uint8 [1, 0].
        images: decoded, uint8 [H, W, 3]; planned: as from ``rows.kernel_rows``.
    """
    return _operator("whole_run", "whole_setup", ((types.UINT8, 2), _IMAGE, _NUMBERS), (_IMAGE,))(side, images, planned)


def augment_patches(
    sizes: Node, images: tuple[Node, Node], wholes: tuple[Node, Node], planned: Node
) -> tuple[Node, Node, Node]:
    """(patches uint8 [K, P*P*3], their ids int32 [K], other patches uint8 [R, P*P*3]) of decoded images.

    Args:
        sizes: uint8 [K, R, P, 0]; R is N - K where the other patches are wanted, else 0.
        images: decoded, uint8 [H, W, 3], and those that they are mixed with; the same where nothing is mixed.
        wholes: of ``augment_whole``, and those of the images that they are mixed with.
        planned: as from ``rows.kernel_rows``.
    """
    ins = ((types.UINT8, 4), _IMAGE, _IMAGE, _IMAGE, _IMAGE, _NUMBERS)  # no more than six are allowed
    operator = _operator("patches_run", "patches_setup", ins, (_PATCHES, _IDS, _PATCHES))
    return tuple(operator(sizes, *images, *wholes, planned))
