import pytest

from tools.shards.sources.split_map import SplitMap


def test_the_first_name_or_pattern_that_fits_decides() -> None:
    rules = SplitMap.parse("holdout=val, part-0*=test,part-*=train")
    assert [rules.split_of(name) for name in ("holdout", "part-07", "part-17", "more")] == [
        "val",
        "test",
        "train",
        None,
    ]
    assert SplitMap.parse("a=b=val").split_of("a=b") == "val"
    assert SplitMap.parse("*=val").split_of_whole() is None


@pytest.mark.parametrize("text", ["", "holdout", "=val", "holdout=dev", "a=val,,b=val", "holdout=Val"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"takes NAME=SPLIT, parted by commas.* one of train, val, test"):
        SplitMap.parse(text)


def test_rules_that_fit_nothing_are_named() -> None:
    rules = SplitMap.parse("holdout=val,part=train")
    rules.split_of("part")
    with pytest.raises(ValueError, match="nothing in csv:x is called holdout"):
        rules.check_used("csv:x")
