"""Echo: one decoded image serves several steps, as in "Faster Neural Network Training with Data Echoing" (arXiv
1907.05550, example echoing before augmentation).

With ``echo`` E > 1 every image is seen in E steps, ``echo_gap`` steps apart, each time with the crop, flip, mixing,
erasing and selection noise that belong to that row of that step, as if it were another image. Batches and epochs keep
their sizes; on average every E-th row of a step has to be decoded, and a pass over the data set takes E epochs.

How: row i of step s shows the sample that row i of a "plain" step L(s, i) would show without echo.

    t = s + (i mod E) * gap          rows change their images at different steps, so that decoding is spread evenly
    L = t // (E * gap) * gap + t mod gap

So each row takes each value of L at exactly E steps, gap apart; only at the start of the run, where most rows come in
late, it may be fewer. A sample keeps its row, hence its rank, on any number of ranks, and the whole is a function of
(step, row).

What it changes besides the order of the samples: steps that are ``echo_gap`` apart share images. Rows i and i xor 1,
which are mixed with one another, change their images at different steps, so an image is mixed with two others over its
views. Where one pass over the data ends and the next begins, a sample may stand twice in a batch.
"""

import numpy as np


def plain_steps(step: int, rows: np.ndarray, echo: int, gap: int) -> np.ndarray:
    """For each row of the global batch (int64 [B]) the plain step whose sample it shows: int64 [B]."""
    at = step + rows % echo * gap
    return at // (echo * gap) * gap + at % gap


def views_left(step: int, rows: np.ndarray, echo: int, gap: int) -> np.ndarray:
    """How many more times each row's sample will be shown after this step: int64 [B], from echo - 1 down to 0."""
    at = step + rows % echo * gap
    return echo - 1 - at % (echo * gap) // gap
