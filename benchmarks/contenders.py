"""The contenders of benchmarks.loader, and what is compared with what."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from benchmarks.loader_ours import Ours, Part, ShardsName
from benchmarks.loader_peers import (
    Batches,
    Setting,
    dali_reader,
    timm_naflex,
    timm_webdataset,
    webdataset_torchvision,
)
from benchmarks.peers import handwritten, spdl_ffmpeg
from benchmarks.peers.handwritten import HandWritten
from benchmarks.peers.recipes import TimmRecipe, recipe_of_ours, torchvision_recipe
from benchmarks.peers.spdl_ffmpeg import spdl_loader

Open = Callable[[Setting], AbstractContextManager[Batches]]

KEEP_RATES = (0.2, 0.4, 0.6, 0.8, 1.0)
RESAMPLE_FIRST, ECHO = {"route": "resample_first"}, {"echo": 2}
MIXING = {"mixup": 0.8, "cutmix": 1.0}
WITHOUT_MIXING = {"mixup": 0.0, "cutmix": 0.0}
# Each of these is measured at every keep rate. One line for each further configuration of the loader.
OURS = {
    "random": Ours({"rule": "random"}),
    "contrast": Ours({"rule": "contrast"}),
    "random, recipe": Ours({"rule": "random"}, augment=recipe_of_ours()),
}
if torch.cuda.is_available():
    OURS |= {
        "random, decoded on the GPU": Ours({"rule": "random"}, data={"device": "gpu"}),
        "contrast, decoded on the GPU": Ours({"rule": "contrast"}, data={"device": "gpu"}),
    }
# Each of these at the lowest one.
OURS_AT_LOWEST = {
    "grid": Ours({"rule": "grid"}),
    "magnitude, recipe": Ours({"rule": "magnitude"}, augment=recipe_of_ours()),
    "random, resample first": Ours({"rule": "random"}, RESAMPLE_FIRST),
    "grid, resample first": Ours({"rule": "grid"}, RESAMPLE_FIRST),
    "contrast, resample first": Ours({"rule": "contrast"}, RESAMPLE_FIRST),
    "random, mixup and cutmix": Ours({"rule": "random"}, augment=MIXING),
    "random, mixup and cutmix, resample first": Ours({"rule": "random"}, RESAMPLE_FIRST, MIXING),
    "random, echo 2": Ours({"rule": "random"}, ECHO),
    "random, echo 4": Ours({"rule": "random"}, {"echo": 4}),
    "random, echo 2, resample first": Ours({"rule": "random"}, RESAMPLE_FIRST | ECHO),
    "random, shards of 256 pixels": Ours({"rule": "random"}, shards="resized_shards"),
    "random, shards of 256 pixels, echo 2": Ours({"rule": "random"}, ECHO, shards="resized_shards"),
}


class AtRates(NamedTuple):
    """A configuration at some keep rates.

    Attributes:
        hoped: (keep rate, other contender) -> images per second over the other's that are hoped for.
    """

    ours: Ours
    keep_rates: tuple[float, ...]
    hoped: dict[tuple[float, str], float]


# On shards of addressable JPEGs; one entry for each further configuration, with what it is compared with.
ADDRESSABLE = {
    "addressable, random": AtRates(
        Ours({"rule": "random"}, shards="addressable_shards"),
        (0.2, 0.4, 0.6, 1.0),
        {
            (0.2, "ours, random, keep 0.2"): 1.3,
            (0.2, "timm, WebDataset"): 5.0,
            (0.2, "hand-written"): 2.4,
            (0.2, "ours, decoding alone"): 1.0,
            (1.0, "ours, random, keep 1"): 1.0,
        },
    ),
    "addressable, map bytes": AtRates(
        Ours({"rule": "map", "map": "bytes"}, shards="addressable_shards"),
        (0.2, 0.4),
        {(0.2, "ours, addressable, random, keep 0.2"): 0.95},
    ),
    "addressable, contrast": AtRates(Ours({"rule": "contrast"}, shards="addressable_shards"), (0.2,), {}),
    "addressable, recipe, random": AtRates(
        Ours({"rule": "random"}, augment=recipe_of_ours(), shards="addressable_shards"),
        (0.2, 1.0),
        {(0.2, "timm, recipe"): 6.0},
    ),
    "addressable, recipe without mixing, random": AtRates(
        Ours({"rule": "random"}, augment=recipe_of_ours() | WITHOUT_MIXING, shards="addressable_shards"), (0.2,), {}
    ),
}
# Whole images, whatever a model drops later.
WHOLE: dict[str, Open] = {
    "ours, without selection": Part("flip").open,
    "ours, decoding alone": Part("decode").open,
    "ours, decoding alone, fast IDCT": Part("decode", fast_idct=True).open,
    "ours, decoding whole images alone": Part("decode", window=False).open,
    "timm, WebDataset": timm_webdataset,
    "timm, NaFlex": timm_naflex,
    "webdataset and torchvision v2": webdataset_torchvision,
    "DALI's own reader": dali_reader,
    "hand-written, OpenCV linear": HandWritten(antialias=False).open,
    "hand-written, OpenCV area": HandWritten(antialias=True).open,
    "SPDL": spdl_loader,
    "timm, WebDataset, recipe": TimmRecipe().open,
    "timm, WebDataset, recipe without mixup": TimmRecipe(mixes=False).open,
    "webdataset and torchvision v2, recipe": torchvision_recipe,
}
# What some of them need beside the project's own packages: why they cannot run here, or None.
NEEDS: dict[str, Callable[[], str | None]] = {
    "hand-written, OpenCV linear": handwritten.missing,
    "hand-written, OpenCV area": handwritten.missing,
    "SPDL": spdl_ffmpeg.missing,
}
# Names for the fastest of several.
FASTEST = {
    "hand-written": ("hand-written, OpenCV linear", "hand-written, OpenCV area"),
    "timm, recipe": ("timm, WebDataset, recipe", "timm, WebDataset, recipe without mixup"),
}
_HOPED = {
    (0.2, "hand-written"): 1.7,
    (1.0, "hand-written"): 1.25,
    (0.2, "timm, recipe"): 4.0,
    (1.0, "timm, recipe"): 1.8,
    (1.0, "webdataset and torchvision v2, recipe"): 1.3,
}
# What is hoped for on photographs: one contender's images per second over another's; None: compared, and no more.
TARGETS: dict[tuple[str, str], float | None] = {
    ("ours, random, keep 0.2", "timm, WebDataset"): 2.5,
    ("ours, contrast, keep 0.2", "timm, WebDataset"): 2.5,
    ("ours, random, keep 0.2", "webdataset and torchvision v2"): 1.5,
    ("ours, contrast, keep 0.2", "webdataset and torchvision v2"): 1.5,
    ("ours, random, echo 2, keep 0.2", "ours, random, keep 0.2"): 1.6,
    ("ours, random, shards of 256 pixels, keep 0.2", "ours, random, keep 0.2"): 2.0,
    ("ours, random, resample first, keep 0.2", "ours, without selection"): 0.95,
    ("ours, grid, resample first, keep 0.2", "ours, without selection"): 0.95,
    ("ours, contrast, resample first, keep 0.2", "ours, without selection"): 0.95,
    ("ours, random, keep 0.2", "ours, decoding alone"): 0.8,
    ("ours, contrast, keep 0.2", "ours, decoding alone"): 0.8,
    **{
        (f"ours, random, keep {keep_rate:g}", peer): _HOPED.get((keep_rate, peer))
        for peer in ("hand-written", "hand-written, OpenCV area", "SPDL")
        for keep_rate in KEEP_RATES
    },
    **{("ours, without selection", peer): None for peer in ("hand-written", "hand-written, OpenCV area", "SPDL")},
    **{
        (f"ours, random, recipe, keep {keep_rate:g}", peer): _HOPED.get((keep_rate, peer))
        for peer in ("timm, recipe", "webdataset and torchvision v2, recipe")
        for keep_rate in KEEP_RATES
    },
    **{
        (f"ours, {name}, keep {keep_rate:g}", other): ratio
        for name, (_, _, hoped) in ADDRESSABLE.items()
        for (keep_rate, other), ratio in hoped.items()
    },
}
DECODING_RESIZED = "ours, decoding alone, shards of 256 pixels"


def cases_of_ours() -> dict[str, tuple[Ours, float]]:
    """The configurations of the loader with their keep rates, by the names of their contenders."""
    cases = [(name, ours, keep_rate) for name, ours in OURS.items() for keep_rate in KEEP_RATES]
    cases += [(name, ours, min(KEEP_RATES)) for name, ours in OURS_AT_LOWEST.items()]
    cases += [(name, ours, keep_rate) for name, (ours, rates, _) in ADDRESSABLE.items() for keep_rate in rates]
    return {f"ours, {name}, keep {keep_rate:g}": (ours, keep_rate) for name, ours, keep_rate in cases}


def contenders(setting: Setting) -> dict[str, tuple[float | None, Open]]:
    """By name: the keep rate, None where whole images come out, and what opens it."""
    found: dict[str, tuple[float | None, Open]] = {
        name: (keep_rate, partial(ours.open, keep_rate=keep_rate))
        for name, (ours, keep_rate) in cases_of_ours().items()
        if ours.folder(setting) is not None
    }
    found |= {name: (None, opener) for name, opener in WHOLE.items()}
    if setting.resized_shards is not None:
        found[DECODING_RESIZED] = None, Part("decode", shards="resized_shards").open
    return found


@dataclass(frozen=True)
class Choice:
    """Which contenders take part: all, unless something is said.

    Attributes:
        only: those with one of these in their name.
        keep_rates: of ours, those at one of these.
        without: names of those that cannot.
    """

    only: tuple[str, ...] = ()
    keep_rates: tuple[float, ...] = KEEP_RATES
    without: frozenset[str] = frozenset()

    def has(self, name: str, keep_rate: float | None) -> bool:
        is_named = not self.only or any(part in name for part in self.only)
        return is_named and name not in self.without and (keep_rate is None or keep_rate in self.keep_rates)

    def of(self, setting: Setting) -> dict[str, tuple[float | None, Open]]:
        """The contenders of a setting that take part."""
        return {name: one for name, one in contenders(setting).items() if self.has(name, one[0])}

    def shards(self) -> set[ShardsName]:
        """Which of a setting's shards they read."""
        found = {ours.shards for name, (ours, keep_rate) in cases_of_ours().items() if self.has(name, keep_rate)}
        return found | ({"resized_shards"} if self.has(DECODING_RESIZED, None) else set())


def unable() -> dict[str, str]:
    """Contenders that cannot run here, and what they need."""
    return {name: why for name, missing in NEEDS.items() if (why := missing()) is not None}
