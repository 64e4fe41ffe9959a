"""What is taken out of DeepSpeed's steps."""

import pytest

from engine.deepspeed_engine import spare_the_host


class Optimizer:
    """Steps as DeepSpeed's optimizer for ZeRO-1 and 2 does, as far as it is changed."""

    def __init__(self) -> None:
        self.compute_grad_norm, self.pointed, self.fails = True, 0, False
        self.norms = 0

    def step(self) -> None:
        self.norms += self.compute_grad_norm
        if self.fails:
            raise RuntimeError("out of memory")
        self._update_model_bit16_weights(0)

    def _update_model_bit16_weights(self, group: int) -> None:
        self.pointed += 1


def test_a_step_takes_no_norms_and_points_no_weights() -> None:
    optimizer = Optimizer()
    spare_the_host(optimizer)
    optimizer.step()
    assert (optimizer.norms, optimizer.pointed) == (0, 0)


def test_weights_are_pointed_to_their_places_whenever_it_is_no_step() -> None:
    optimizer = Optimizer()
    spare_the_host(optimizer)
    optimizer.step()
    optimizer._update_model_bit16_weights(0)
    assert optimizer.pointed == 1


def test_a_step_that_fails_leaves_the_optimizer_as_it_was() -> None:
    optimizer = Optimizer()
    optimizer.fails = True
    spare_the_host(optimizer)
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step()
    optimizer._update_model_bit16_weights(0)
    assert optimizer.pointed == 1
