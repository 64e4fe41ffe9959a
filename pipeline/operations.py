"""The operations of automatic augmentation and the suites that draw from them, in tables that everyone reads.

An operation is one of few kinds, and a kind is what compiled kernels and a GPU's graph know how to do. A new operation
of a known kind is an entry of ``OPERATIONS``, and of the suites that draw it.

A magnitude lies in -10 to 10, negative where an operation goes the other way. A suite turns it into the operation's
value (degrees, a factor, a threshold, ...), and the operation its value into the numbers that its kind works with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

OperationKind = Literal["nothing", "affine", "table", "grey", "smoothed", "blur", "contrast", "stretch", "equalize"]
MAX_MAGNITUDE = 10.0
_LEVELS = np.arange(256)


@dataclass(frozen=True)
class Operation:
    """An operation.

    Attributes:
        kind: ``affine``: a warp; ``table``: new values looked up by old ones; ``grey``, ``smoothed``: a blend with the
            image in grey, or smoothed; ``blur``: Gaussian. The others look at the whole image: ``contrast`` blends with
            its mean grey, ``stretch`` and ``equalize`` make a table of each channel from its histogram.
        value: what its value is, and within which bounds; empty where it has none.
        timm, torchvision: the same there; empty where there is none.
        numbers: under ``affine`` from values float64 [n] to matrices float64 [n, 6] in units of the image's side around
            its centre, from places of the new image to those of the old; under ``table`` to tables uint8 [n, 256].
    """

    kind: OperationKind
    value: str
    timm: str
    torchvision: str
    numbers: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def has_magnitude(self) -> bool:
        return bool(self.value)

    @property
    def looks_at_all(self) -> bool:
        """Whether each of its pixels depends on the whole image."""
        return self.kind in ("contrast", "stretch", "equalize")


def _matrices(*columns: np.ndarray | float) -> np.ndarray:
    """float64 [n, 6] from six columns, each float64 [n] or one number."""
    (num,) = np.broadcast_shapes(*(np.shape(column) for column in columns))
    matrices = np.empty((num, len(columns)))
    for place, column in enumerate(columns):
        matrices[:, place] = column
    return matrices


def _rotation(degrees: np.ndarray) -> np.ndarray:
    angle = -np.radians(degrees)
    return _matrices(np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0)


def _sheared(x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray:
    # Pillow shears around the upper left corner, which lies half a side from the centre.
    return _matrices(1, x, np.multiply(x, 0.5), y, 1, np.multiply(y, 0.5))


def _looked_up(new: np.ndarray) -> np.ndarray:
    return np.clip(new, 0, 255).astype(np.uint8)


def _posterized(bits: np.ndarray) -> np.ndarray:
    return _looked_up(_LEVELS & (256 - 2 ** (8 - bits[:, None].astype(np.int64))))


def _solarized(threshold: np.ndarray) -> np.ndarray:
    return _looked_up(np.where(threshold[:, None] > _LEVELS, _LEVELS, 255 - _LEVELS))


def _solarize_added(add: np.ndarray) -> np.ndarray:
    return _looked_up(np.where(_LEVELS < 128, _LEVELS + add[:, None].astype(np.int64), _LEVELS))


# Plans count operations in this order. What is drawn follows from the suites below.
OPERATIONS: dict[str, Operation] = {
    "identity": Operation("nothing", "", "", "Identity"),
    "translate_x": Operation(
        "affine", "share of the side", "TranslateXRel", "TranslateX", lambda share: _matrices(1, 0, share, 0, 1, 0)
    ),
    "translate_y": Operation(
        "affine", "share of the side", "TranslateYRel", "TranslateY", lambda share: _matrices(1, 0, 0, 0, 1, share)
    ),
    "shear_x": Operation("affine", "factor", "ShearX", "ShearX", lambda factor: _sheared(factor, 0)),
    "shear_y": Operation("affine", "factor", "ShearY", "ShearY", lambda factor: _sheared(0, factor)),
    "rotate": Operation("affine", "degrees", "Rotate", "Rotate", _rotation),
    "brightness": Operation(
        "table",
        "factor",
        "BrightnessIncreasing",
        "Brightness",
        lambda factor: _looked_up(_LEVELS.astype(np.float32) * factor[:, None].astype(np.float32)),
    ),
    "contrast": Operation("contrast", "factor", "ContrastIncreasing", "Contrast"),
    "color": Operation("grey", "factor", "ColorIncreasing", "Color"),
    "sharpness": Operation("smoothed", "factor", "SharpnessIncreasing", "Sharpness"),
    "posterize": Operation("table", "bits that stay, 0 to 8", "PosterizeIncreasing", "Posterize", _posterized),
    "solarize": Operation("table", "threshold, 0 to 256", "SolarizeIncreasing", "Solarize", _solarized),
    "solarize_add": Operation("table", "what is added below 128", "SolarizeAdd", "", _solarize_added),
    "invert": Operation(
        "table", "", "Invert", "", lambda values: np.broadcast_to(255 - _LEVELS, (len(values), 256)).astype(np.uint8)
    ),
    "auto_contrast": Operation("stretch", "", "AutoContrast", "AutoContrast"),
    "equalize": Operation("equalize", "", "Equalize", "Equalize"),
    "grey": Operation("grey", "", "", "Grayscale"),
    "blur": Operation("blur", "standard deviation in pixels", "GaussianBlurRand", "GaussianBlur"),
}
OPERATION_NAMES = tuple(OPERATIONS)
IDENTITY = OPERATION_NAMES.index("identity")


@dataclass(frozen=True)
class Level:
    """How a suite turns magnitudes into an operation's values.

    Attributes:
        value: from magnitudes over 10, float64 [n] in -1 to 1, to values float64 [n].
        goes_either_way: a magnitude is negated at random.
    """

    value: Callable[[np.ndarray], np.ndarray]
    goes_either_way: bool = False


def _signed(largest: float) -> Level:
    return Level(lambda share: share * largest, goes_either_way=True)


def _none(fixed: float = 0.0) -> Level:
    return Level(lambda share: np.full(share.shape, fixed))


_ENHANCED = ("color", "contrast", "brightness", "sharpness")
# timm's ``rand-...-inc1``: a larger magnitude always changes more.
_RAND_INCREASING: dict[str, Level] = {
    "auto_contrast": _none(),
    "equalize": _none(),
    "invert": _none(),
    "rotate": _signed(30),
    "posterize": Level(lambda share: 4 - np.trunc(4 * share)),
    "solarize": Level(lambda share: 256 - np.minimum(256, np.trunc(256 * share))),
    "solarize_add": Level(lambda share: np.minimum(128, np.trunc(110 * share))),
    **dict.fromkeys(_ENHANCED, Level(lambda share: np.maximum(0.1, 1 + 0.9 * share), goes_either_way=True)),
    "shear_x": _signed(0.3),
    "shear_y": _signed(0.3),
    "translate_x": _signed(0.45),
    "translate_y": _signed(0.45),
}
# timm's ``rand-...`` without it, as the paper of RandAugment has them.
_RAND: dict[str, Level] = _RAND_INCREASING | {
    "posterize": Level(lambda share: np.trunc(4 * share)),
    "solarize": Level(lambda share: np.minimum(256, np.trunc(256 * share))),
    **dict.fromkeys(_ENHANCED, Level(lambda share: 1.8 * share + 0.1)),
}
_TRIVIAL: dict[str, Level] = {
    "identity": _none(),
    "shear_x": _signed(0.99),
    "shear_y": _signed(0.99),
    "translate_x": _signed(32 / 224),
    "translate_y": _signed(32 / 224),
    "rotate": _signed(135),
    **dict.fromkeys(_ENHANCED, Level(lambda share: 1 + 0.99 * share, goes_either_way=True)),
    "posterize": Level(lambda share: 8 - np.round(6 * share)),
    "solarize": Level(lambda share: 255 * (1 - share)),
    "auto_contrast": _none(),
    "equalize": _none(),
}
_THREE: dict[str, Level] = {
    "grey": _none(0.0),
    "solarize": _none(128),
    "blur": Level(lambda share: 0.1 + 1.9 * share),
}


@dataclass(frozen=True)
class Suite:
    """Operations that are drawn from, each as likely as the others, in the order in which they are counted.

    Attributes:
        source: where it comes from.
        changes_colors: colour jitter would change them once more; DeiT III wants that of ThreeAugment's images.
        is_set: ``num_ops``, ``magnitude``, ``magnitude_std``, ``probability`` and ``increasing`` say how it is drawn;
            otherwise each image gets one operation of any magnitude, to ``num_bins`` steps.
    """

    source: str
    levels: dict[str, Level]
    changes_colors: bool = True
    is_set: bool = False
    num_bins: int = 0


SUITES: dict[str, Suite] = {
    "randaugment": Suite("RandAugment (arXiv 1909.13719), timm's 15 operations", _RAND_INCREASING, is_set=True),
    "trivialaugment": Suite("TrivialAugment (arXiv 2103.10158), torchvision's 14 operations", _TRIVIAL, num_bins=31),
    "threeaugment": Suite(
        "ThreeAugment (DeiT III, arXiv 2204.07118): grey, solarize or blur",
        _THREE,
        changes_colors=False,
        num_bins=1 << 16,
    ),
}


def levels_of(kind: str, *, increasing: bool = True) -> dict[str, Level]:
    """The operations of a suite, in the order in which they are counted."""
    return SUITES[kind].levels if increasing or not SUITES[kind].is_set else _RAND


def markdown_table() -> str:
    """Every operation as a line of a Markdown table, for the documentation."""
    head = ["operation", "what it is", "value", *(f"in {kind}" for kind in SUITES), "timm", "torchvision"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, operation in OPERATIONS.items():
        ranges = [_range_of(name, suite) for suite in SUITES.values()]
        cells = [f"`{name}`", _KINDS_IN_WORDS[operation.kind], operation.value or "-", *ranges]
        lines.append(f"| {' | '.join([*cells, operation.timm or '-', operation.torchvision or '-'])} |")
    return "\n".join(lines)


def _range_of(name: str, suite: Suite) -> str:
    """The values that a suite gives an operation at its ends."""
    level = suite.levels.get(name)
    if level is None:
        return "-"
    if not OPERATIONS[name].has_magnitude:
        return "yes"
    ends = level.value(np.array([-1.0 if level.goes_either_way else 0.0, 1.0]))
    return f"{ends[0]:.3g}" if ends[0] == ends[1] else f"{ends[0]:.3g} to {ends[1]:.3g}"


_KINDS_IN_WORDS: dict[OperationKind, str] = {
    "nothing": "nothing",
    "affine": "warp",
    "table": "table of values",
    "grey": "blend with grey",
    "smoothed": "blend with the smoothed image",
    "blur": "Gaussian blur",
    "contrast": "blend with the whole image's mean grey",
    "stretch": "table of each channel, from the whole image",
    "equalize": "table of each channel, from the whole image",
}
