"""Which of the weights in a file are the model's: training code wraps names, and keeps several sets of them in a file.

A set is known by its place, the words before the model's own names: ``teacher.backbone`` for the parameter
``blocks.0.norm1.weight`` that a file keeps under ``teacher`` as ``backbone.blocks.0.norm1.weight``. Any words are taken
off, so long as the names fit the model then.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from timm.models import clean_state_dict
from torch import Tensor

# Where a file holds several sets, that of the first word here is taken, plain names before all: the weights themselves
# before their average, DINO's teacher before its student, MoCo's base encoder before its momentum encoder. Two sets
# that differ in no word of these are asked about.
ORDER = (
    *("state_dict", "model", "module", "teacher", "student", "base_encoder", "momentum_encoder"),
    *("target_encoder", "encoder", "backbone", "state_dict_ema", "model_ema"),
)
_PLAIN_KEYS = ("state_dict", "model", "module")  # where names that are not the model's are looked for
_CLIPS_VISION = "visual"  # timm's conversion of CLIP's names takes this word off by itself, and needs names beside it
_LEAST_SHARE = 0.1  # of the model's names (or the file's, where it has fewer) in a set that is one of its weights
_NEARLY_ALL = 0.9  # of the best set's names in another set that might be meant as well, which a decoder has not


@dataclass(frozen=True)
class FoundWeights:
    """Weights of a source, for one model.

    Attributes:
        state: names and tensors, wrappers around the names taken off.
        place: what was taken off, such as ``teacher.backbone``; empty where there was nothing.
        others: the places of the other sets that would fit.
        rest: names of the tensors that belong to no such set.
    """

    state: dict[str, Tensor]
    place: str = ""
    others: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Set:
    """``container``: the key of the mapping in the file; ``prefix``: of the names there, with its dot."""

    container: str
    prefix: str
    num_own: int

    @property
    def place(self) -> str:
        return ".".join(part for part in (self.container, self.prefix[:-1]) if part)

    @property
    def shown(self) -> str:
        return self.place or "(plain names)"

    @property
    def rank(self) -> tuple[int, ...]:
        words = self.place.split(".") if self.place else []
        return tuple(ORDER.index(word) if word in ORDER else len(ORDER) for word in words)


def choose_weights(
    containers: Mapping[str, Mapping[str, Tensor]], own: Collection[str], source: str, key: str | None = None
) -> FoundWeights:
    """The set of weights that fits a model, with its names as the model has them.

    Args:
        containers: by their key in the file (dotted where they are nested, empty for the file itself), names and
            tensors. Containers without tensors are left out.
        own: the names of the model's parameters and buffers.
        source: for messages.
        key: words of the place of the set to take, such as ``student`` or ``state_dict_ema``; None: the first in
            ``ORDER``.

    Raises:
        ValueError: no set, or no one set, is that of the key, or nothing tells which of several to take.
    """
    found = _fitting_sets(containers, set(own))
    if not found:
        return _in_foreign_names(containers, source, key)
    meant = [one for one in found if key is None or f".{key}." in f".{one.place}."]
    if not meant:
        raise ValueError(f"{source} holds no weights under model.pretrained_key '{key}'; there are: {_listed(found)}")
    best = max(one.num_own for one in meant)
    meant = sorted((one for one in meant if one.num_own >= _NEARLY_ALL * best), key=lambda one: one.rank)
    if len(meant) > 1 and meant[0].rank == meant[1].rank:
        raise ValueError(
            f"{source} holds several sets of weights that fit the model; set model.pretrained_key to one of: "
            f"{_listed([one for one in meant if one.rank == meant[0].rank])}"
        )
    taken = meant[0]
    alike = [one for one in found if one.num_own >= _NEARLY_ALL * taken.num_own]
    state, rest = {}, []
    for container, tensors in containers.items():
        for name, value in tensors.items():
            within = [one for one in alike if one.container == container and name.startswith(one.prefix)]
            if not within:
                rest.append(name if container in ("", taken.container) else f"{container}.{name}")
            elif max(within, key=lambda one: len(one.prefix)) == taken:
                state[name.removeprefix(taken.prefix)] = value
    return FoundWeights(state, taken.place, tuple(sorted(one.shown for one in alike if one != taken)), tuple(rest))


def _fitting_sets(containers: Mapping[str, Mapping[str, Tensor]], own: set[str]) -> list[_Set]:
    """Every set that holds a good part of the model's names."""
    counts: Counter[tuple[str, str]] = Counter()
    for container, tensors in containers.items():
        for name in tensors:
            words = name.split(".")
            for first in range(len(words)):
                if ".".join(words[first:]) in own:
                    counts[container, "".join(f"{word}." for word in _wrapping(words[:first]))] += 1
    least = _LEAST_SHARE * min(len(own), sum(map(len, containers.values())))
    return [_Set(*place, count) for place, count in counts.items() if count >= least]


def _wrapping(words: list[str]) -> list[str]:
    return words[: words.index(_CLIPS_VISION)] if _CLIPS_VISION in words else words


def _in_foreign_names(containers: Mapping[str, Mapping[str, Tensor]], source: str, key: str | None) -> FoundWeights:
    """Weights in names that are not the model's, for timm's own conversions to try."""
    if key is not None and key not in containers:
        known = ", ".join(filter(None, containers)) or "none"
        raise ValueError(
            f"{source} holds no weights under model.pretrained_key '{key}'; its keys with weights: {known}"
        )
    taken = next((one for one in (*_PLAIN_KEYS, "", *containers) if one in containers), "") if key is None else key
    others = tuple(sorted(one for one in containers if one and one != taken))
    return FoundWeights(clean_state_dict(dict(containers.get(taken, {}))), taken, others)


def _listed(sets: list[_Set]) -> str:
    return ", ".join(sorted(one.shown for one in sets))
