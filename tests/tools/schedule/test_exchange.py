from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import RunConfig, load_config
from tools.schedule.exchange import EXCHANGES, Network, bytes_of_a_number, carried_bytes, exposed_s

ROOT = Path(__file__).resolve().parents[3]
TWO = Network(hosts=2, link_gbit_per_s=8.0, ranks=2)  # 1e9 bytes in a second
NUMBERS = 1_000_000_000


def config(zero: int, precision: str = "fp32") -> RunConfig:
    overrides = [f"engine.zero_stage={zero}", f"engine.precision={precision}"]
    return load_config(ROOT / "configs" / "fashion_mnist.yaml", overrides)


def exposed(zero: int, *, passes: int = 1, computing_s: float = 0.0, overlaps: bool = True, **of: Any) -> float:
    found = exposed_s(
        config(zero, **of),
        TWO,
        NUMBERS,
        passes=np.array([passes]),
        forward_s=np.array([computing_s / 3]),
        backward_s=np.array([2 * computing_s / 3]),
        overlaps=overlaps,
    )
    return float(found[0])


def test_a_ring_carries_each_number_twice_less_the_own_part() -> None:
    # 4e9 bytes; two ranks pass on half of them, twice: 4 s.
    assert exposed(0) == pytest.approx(2 * (1 / 2) * 4)
    assert Network(4, 8.0, 32).turn_s(1e9) == pytest.approx(31 / 32)


def test_every_zero_stage_has_its_exchange() -> None:
    for zero in (0, 1, 2, 3):
        assert exposed(zero) == pytest.approx(2 * (EXCHANGES[zero].overlapped + EXCHANGES[zero].afterwards))


def test_gloo_scatters_by_an_all_reduce() -> None:
    assert exposed(3, passes=2, overlaps=False) == pytest.approx(2 * (2 + 4))
    assert exposed(3, passes=2) == pytest.approx(2 * (2 + 2))


@pytest.mark.parametrize("on_gpu", [True, False])
def test_a_line_carries_in_a_step_what_nothing_hides_if_nothing_is_computed(on_gpu: bool) -> None:
    for zero in EXCHANGES:
        carried = carried_bytes(config(zero), TWO, NUMBERS, 4, on_gpu=on_gpu)
        assert carried == pytest.approx(1e9 * exposed(zero, passes=4, overlaps=on_gpu))


def test_a_backward_pass_hides_gradients_under_zero_1_and_2_but_not_the_weights_behind_it() -> None:
    assert exposed(1, computing_s=3.0) == pytest.approx(4 - 2 + 2)
    assert exposed(1, computing_s=300.0) == pytest.approx(2)
    assert exposed(0, computing_s=300.0) == pytest.approx(4)  # nothing goes on beside it


def test_a_processor_hides_nothing() -> None:
    assert exposed(1, computing_s=300.0, overlaps=False) == pytest.approx(6)


def test_zero_1_exchanges_once_a_step_and_zero_2_in_every_pass() -> None:
    assert exposed(1, passes=4) == pytest.approx(4 + 2)
    assert exposed(2, passes=4) == pytest.approx(4 * 4 + 2)
    assert exposed(3, passes=4) == pytest.approx(4 * 4)


def test_only_the_last_of_four_passes_hides_zero_1s_gradients() -> None:
    assert exposed(1, passes=4, computing_s=6.0) == pytest.approx(4 - 1 + 2)


def test_zero_3_hides_beside_the_forward_pass_too() -> None:
    assert exposed(3, computing_s=3.0) == pytest.approx(4 - 3)


def test_numbers_have_the_bytes_that_they_are_exchanged_in() -> None:
    assert bytes_of_a_number(config(1, "bf16")) == 2
    assert bytes_of_a_number(config(0, "bf16")) == 4  # autocast: gradients are float32
    assert bytes_of_a_number(config(2)) == 4
