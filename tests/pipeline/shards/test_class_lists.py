"""Sets whose class lists differ are brought to one list, by name or by a table, and never by chance."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from pipeline.shards.class_lists import ClassList, one_list


def lists(*each: tuple[Sequence[str], Mapping[str, str | int]]) -> list[ClassList]:
    return [ClassList(f"data.train.s{i}", names, given) for i, (names, given) in enumerate(each)]


def labels(table: np.ndarray | None) -> list[int] | None:
    return None if table is None else table.tolist()


def found(*each: tuple[Sequence[str], Mapping[str, str | int]]) -> tuple[list[str], list[list[int] | None]]:
    names, tables = one_list(lists(*each))
    return names, [labels(table) for table in tables]


def test_sets_with_the_same_classes_or_none_keep_their_labels() -> None:
    assert found((["a", "b"], {}), (["a", "b"], {})) == (["a", "b"], [None, None])
    assert found(([], {}), ([], {})) == ([], [None, None])
    crane = ["crane", "crane", "maillot"]  # a list may have a name twice, as long as nothing goes by it
    assert found((crane, {}), (crane, {})) == (crane, [None, None])


def test_classes_go_by_name_and_new_ones_come_behind() -> None:
    names, tables = found((["cat", "dog"], {}), (["bird", "cat"], {}), (["dog", "fish", "bird"], {}))
    assert names == ["cat", "dog", "bird", "fish"]
    assert tables == [[0, 1], [2, 0], [1, 3, 2]]


def test_a_table_says_what_names_do_not() -> None:
    assert found((["shoe", "shirt"], {}), (["sneaker", "shirt"], {"sneaker": "shoe"})) == (
        ["shoe", "shirt"],
        [None, None],
    )
    assert found((["shoe", "shirt"], {}), (["shirt", "sneaker"], {"sneaker": 0}))[1] == [None, [1, 0]]
    assert found((["shoe", "shirt"], {}), ([], {"0": "shirt", "1": "shoe"}))[1] == [None, [1, 0]]
    assert found((["shoe", "shirt"], {}), ([], {"3": "shirt"}))[1] == [None, [-1, -1, -1, 1]]
    assert found(([], {}), ([], {"0": 1, "1": 0})) == ([], [None, [1, 0]])


def test_the_first_set_may_call_its_classes_otherwise_and_merge_some() -> None:
    names, tables = found((["boot", "sneaker", "shirt"], {"boot": "shoe", "sneaker": "shoe"}), (["shirt"], {}))
    assert names == ["shoe", "shirt"]
    assert tables == [[0, 0, 1], [1]]


@pytest.mark.parametrize(
    ("each", "said"),
    [
        (((["a"], {}), ([], {})), r"data\.train\.s1 does not name its classes \(no dataset\.json\)"),
        ((([], {}), (["a"], {})), r"data\.train\.s0 does not name its classes"),
        (((["a"], {}), (["b"], {"b": "c"})), r"s1: class 'c': the run has no such class; it has 'a'"),
        (((["a"], {}), (["b"], {"x": "a"})), r"s1: its table names a class 'x', which it does not have; it has 'b'"),
        (((["a"], {}), (["b"], {"5": "a"})), r"its table names a class '5'"),
        (((["a"], {}), (["b"], {"b": 4})), r"its table names label 4, but the run has 1 classes"),
        (((["a", "a"], {}), (["a"], {})), r"s1: class 'a': 2 classes of the run are called so; name it by its label"),
        (((["a"], {}), (["a", "b", "b"], {})), r"s1: several of its classes are called 'b'.* label 1 is not told"),
        (((["a"], {}), (["b", "b"], {"b": "a"})), r"several of its classes are called 'b'; name them by their labels"),
    ],
)
def test_what_is_not_clear_is_an_error(
    each: tuple[tuple[Sequence[str], Mapping[str, str | int]], ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        one_list(lists(*each))
