from pathlib import Path

import numpy as np
import pytest

from pipeline.graph.nodes import DIFFERENCES
from pipeline.operations import OPERATIONS, SUITES, levels_of, markdown_table

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "augmentation.md").read_text()


def test_the_page_lists_every_operation_as_the_table_has_it() -> None:
    assert markdown_table() in PAGE
    assert all(f"| `{name}` |" in markdown_table() for name in OPERATIONS)


def test_the_page_tells_every_difference_of_a_gpu() -> None:
    for name, difference in DIFFERENCES.items():
        assert any(f"`{name}`" in line and difference in line for line in PAGE.splitlines())


@pytest.mark.parametrize("kind", SUITES)
def test_every_suite_draws_known_operations_and_gives_each_row_a_value(kind: str) -> None:
    for name, level in levels_of(kind).items():
        assert name in OPERATIONS
        assert level.value(np.linspace(0, 1, 5)).shape == (5,)


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if operation.numbers is not None])
def test_an_operation_has_the_numbers_of_its_kind(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation.numbers is not None
    found = operation.numbers(np.array([0.0, 1.0, 2.0]))
    assert found.shape == ((3, 6) if operation.kind == "affine" else (3, 256))
    assert found.dtype == (np.float64 if operation.kind == "affine" else np.uint8)
