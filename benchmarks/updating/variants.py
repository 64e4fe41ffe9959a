"""What is compared: a model before its update, brought up to date in several ways, and trained anew."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.updating.shards import SETS
from engine.config import RunConfig, load_config

ANEW, UPDATE = Path("configs/fashion_mnist.yaml"), Path("configs/update.yaml")
NUM_SAMPLES, NUM_OLD = 60_000, 49_200
UPDATE_SHARE = 10  # an update has so many times fewer steps than training anew
_WARMUP_SHARE = 10  # and its warm-up so many times fewer than the run


@dataclass(frozen=True)
class Lengths:
    """How long runs are: ``epochs`` is that of the long ones, in passes over their data."""

    epochs: float
    batch: int

    @property
    def before(self) -> int:
        return round(self.epochs * NUM_OLD) // self.batch

    @property
    def anew(self) -> int:
        return round(self.epochs * NUM_SAMPLES) // self.batch

    @property
    def update(self) -> int:
        return max(2, round(self.anew / UPDATE_SHARE))


@dataclass(frozen=True)
class Places:
    """Where things lie: ``data`` holds the sets of shards, ``runs`` the run folders."""

    data: Path
    runs: Path

    def run(self, variant: str, seed: int) -> Path:
        return self.runs / f"{variant}-seed{seed}"

    def fisher(self, seed: int) -> Path:
        return self.runs / f"fisher-seed{seed}.safetensors"

    def one(self, name: str) -> str:
        return str(self.data / name)

    def mixed(self, how: str) -> str:
        """Both sets as a list of sources; ``how``: how much of each, such as ``repeat: 1``."""
        return "[" + ", ".join(f"{{name: {name}, folder: {self.one(name)}, {how}}}" for name in SETS) + "]"

    @property
    def held_out(self) -> str:
        return "[" + ", ".join(f"{{name: {name}, folder: {self.one(name)}}}" for name in SETS) + "]"


@dataclass(frozen=True)
class Variant:
    """One way to a model.

    Attributes:
        about: for the reader of the results.
        config: the file that it starts from.
        steps: how many, of the lengths.
        train: ``data.train``.
        more: further ``--set`` words, by the places and the seed.
    """

    about: str
    config: Path
    steps: Callable[[Lengths], int]
    train: Callable[[Places], str]
    more: Callable[[Places, int], Sequence[str]] = lambda places, seed: ()


def _old(places: Places) -> str:
    return places.one("old")


def _new(places: Places) -> str:
    return places.one("new")


def _all(places: Places) -> str:
    return places.mixed("repeat: 1")


def _half(places: Places) -> str:
    return places.mixed("share: 0.5")


def _free(places: Places, seed: int) -> Sequence[str]:
    return ["train.anchor=null"]


def _fisher(places: Places, seed: int) -> Sequence[str]:
    return [f"train.anchor={{strength: {FISHER_STRENGTH:g}, fisher: {places.fisher(seed)}}}"]


FISHER_STRENGTH = 1000.0
BEFORE, ANEW_NAME = "before", "anew"
FIRST = {
    BEFORE: Variant("trained on old images: what every update starts from", ANEW, lambda n: n.before, _old),
    ANEW_NAME: Variant("trained anew on all images", ANEW, lambda n: n.anew, _all),
    "anew-short": Variant("trained anew on all images, in the steps of an update", ANEW, lambda n: n.update, _all),
}
UPDATES = {
    "new": Variant("updated on new images alone", UPDATE, lambda n: n.update, _new, _free),
    "new-fisher": Variant("the same, weights held by Fisher information", UPDATE, lambda n: n.update, _new, _fisher),
    "half": Variant("updated on old and new images, half of each", UPDATE, lambda n: n.update, _half, _free),
    "mixed": Variant("updated on both as often as they are", UPDATE, lambda n: n.update, _all, _free),
    "mixed-anchor": Variant("the same, weights held near the start", UPDATE, lambda n: n.update, _all),
}
VARIANTS = FIRST | UPDATES


def overrides(name: str, seed: int, places: Places, lengths: Lengths) -> list[str]:
    """The ``a.b=value`` words that make the run of a variant from its file."""
    variant = VARIANTS[name]
    steps = variant.steps(lengths)
    start = [f"model.pretrained=local-dir:{places.run(BEFORE, seed) / 'model'}"] if name in UPDATES else []
    return [
        f"name={name}-seed{seed}",
        f"seed={seed}",
        f"data.train={variant.train(places)}",
        f"data.val={places.held_out}",
        "data.num_train_samples=null",
        f"train.duration={steps}steps",
        f"optim.warmup={max(1, steps // _WARMUP_SHARE)}steps",
        "eval.every=null",
        "eval.keep_rates=[1.0]",
        *start,
        *variant.more(places, seed),
    ]


def config_of(name: str, seed: int, places: Places, lengths: Lengths) -> RunConfig:
    """The configuration of a variant's run. Raises ConfigError if it is none."""
    return load_config(VARIANTS[name].config, overrides(name, seed, places, lengths), preview=True)


def command_line(name: str, seed: int, places: Places, lengths: Lengths) -> list[str]:
    """The arguments of engine.train."""
    words = [word for one in overrides(name, seed, places, lengths) for word in ("--set", one)]
    return ["--config", str(VARIANTS[name].config), "--out", str(places.run(name, seed)), *words]
