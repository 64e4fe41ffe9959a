"""Which split the name of a file or folder speaks of, in the forms that are in use."""

import re

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""What names call a split, in lower case -> what the shards call it."""

SPLITS = ("train", "val", "test")

_NO_LETTERS = re.compile(r"[\W\d_]+")
# Such as trainset, valset, testdata, trainval, holdout: to guess what is meant would put held-out images into training.
_LIKE_A_SPLIT = re.compile(
    r"(train|valid|valset|valdata|eval|test).*|.*(train|test|trainval|minival)|holdout|heldout|devset"
)


def splits_in(name: str) -> set[str]:
    """The splits of which a name speaks, its words parted by anything but letters: {"train"} for ``Train_2017.tar``."""
    return {SPLIT_WORDS[word] for word in _words(name) if word in SPLIT_WORDS}


def is_doubtful(name: str) -> bool:
    """Whether a name speaks of several splits, or has a word that looks like a split's and is none of the known."""
    unknown = [word for word in _words(name) if word not in SPLIT_WORDS]
    return len(splits_in(name)) > 1 or any(_LIKE_A_SPLIT.fullmatch(word) for word in unknown)


def _words(name: str) -> list[str]:
    return _NO_LETTERS.split(name.lower())
