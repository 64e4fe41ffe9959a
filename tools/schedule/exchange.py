"""What ranks on several hosts exchange in a training step, and how much of that no computation hides.

However few patches a step looks at, its gradients have as many bytes as ever. In a ring of W ranks, each host's link
carries, of P numbers of b bytes, (W - 1) / W x P b for a reduce-scatter or an all-gather, and twice that for an
all-reduce. What DeepSpeed does, when, and what goes on meanwhile, stands in ``EXCHANGES``. Left out are latency, the
headers of frames and what answers them, and that ZeRO 3 keeps parameters of fewer than 1e5 numbers whole, which it
gathers once a step.
"""

from dataclasses import dataclass

import numpy as np

from engine.config import RunConfig
from engine.run_plan import trains_under_autocast

_BYTES = {"fp32": 4, "bf16": 2}  # of a number, but under autocast, where gradients are float32


@dataclass(frozen=True)
class Exchange:
    """What one ZeRO stage exchanges. Turns are of (W - 1) / W of all numbers: an all-reduce is two of them.

    Attributes:
        overlapped: turns in a pass while it computes.
        scatters: of these, those of a reduce-scatter. Gloo, which ranks on processors use, has none, and takes the two
            of an all-reduce.
        every_pass: whether that is so in each of a step's passes, or in the last one alone.
        beside_forward: whether the forward pass hides of them, too, and not only the backward pass.
        afterwards: turns once a step, while nothing is computed.
    """

    overlapped: int
    scatters: int
    every_pass: bool
    beside_forward: bool
    afterwards: int

    def in_a_pass(self, *, on_gpu: bool) -> int:
        """Turns in a pass."""
        return self.overlapped + (0 if on_gpu else self.scatters)


# ZeRO 0 averages whole gradients behind the backward pass. ZeRO 1 and 2 all-reduce buckets of them in it (DeepSpeed's
# use_multi_rank_bucket_allreduce) and gather the new weights at the end; ZeRO 2 keeps no whole gradients from pass to
# pass. ZeRO 3 gathers weights before they are needed, once a pass, for models of half of its reuse distance and less,
# and scatters gradients.
EXCHANGES = {
    0: Exchange(overlapped=0, scatters=0, every_pass=False, beside_forward=False, afterwards=2),
    1: Exchange(overlapped=2, scatters=0, every_pass=False, beside_forward=False, afterwards=1),
    2: Exchange(overlapped=2, scatters=0, every_pass=True, beside_forward=False, afterwards=1),
    3: Exchange(overlapped=2, scatters=1, every_pass=True, beside_forward=True, afterwards=0),
}


@dataclass(frozen=True)
class Network:
    """Hosts and the line between them.

    Attributes:
        hosts: 2 or more.
        link_gbit_per_s: of each host, each way.
        ranks: on all hosts together.
    """

    hosts: int
    link_gbit_per_s: float
    ranks: int

    def turn_bytes(self, num_bytes: float) -> float:
        """What every host's link carries, each way, in one turn of so many bytes."""
        return (self.ranks - 1) / self.ranks * num_bytes

    def turn_s(self, num_bytes: float) -> float:
        """Seconds in which every host's link carries one turn of so many bytes."""
        return self.turn_bytes(num_bytes) / (self.link_gbit_per_s * 1e9 / 8)


def bytes_of_a_number(config: RunConfig) -> int:
    """Bytes of a gradient, and of a weight, as ranks exchange it."""
    return 4 if trains_under_autocast(config) else _BYTES[config.engine.precision]


def carried_bytes(config: RunConfig, network: Network, num_parameters: int, passes: int, *, on_gpu: bool) -> float:
    """What every host's link carries, each way, in a training step of so many forward passes, hidden or not."""
    exchange = EXCHANGES[config.engine.zero_stage]
    turns = exchange.in_a_pass(on_gpu=on_gpu) * (passes if exchange.every_pass else 1) + exchange.afterwards
    return turns * network.turn_bytes(num_parameters * bytes_of_a_number(config))


def exposed_s(
    config: RunConfig,
    network: Network,
    num_parameters: int,
    *,
    passes: np.ndarray,
    forward_s: np.ndarray,
    backward_s: np.ndarray,
    overlaps: bool,
) -> np.ndarray:
    """Seconds of a training step in which ranks exchange and nothing is computed: float64, of the arguments' shape.

    Args:
        passes: forward passes that make a step.
        forward_s, backward_s: of all of a step's passes.
        overlaps: whether exchange goes on beside computation: on a GPU, in a stream of its own. On a processor
            DeepSpeed waits for every bucket.
    """
    exchange = EXCHANGES[config.engine.zero_stage]
    turn_s = network.turn_s(num_parameters * bytes_of_a_number(config))
    hiding_s = (backward_s + (forward_s if exchange.beside_forward else 0.0)) / passes if overlaps else 0.0
    of_a_pass = np.maximum(exchange.in_a_pass(on_gpu=overlaps) * turn_s - hiding_s, 0.0)
    times = passes if exchange.every_pass else np.ones_like(passes)
    return of_a_pass * times + exchange.afterwards * turn_s
