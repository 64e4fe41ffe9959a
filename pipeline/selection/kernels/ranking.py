"""The best patches of one image."""

import numpy as np

from pipeline.compiling import compiled


@compiled
def keep_best(scores, noise, temperature, ids):  # type: ignore[no-untyped-def]
    """``rules.top_k`` of ``rules.perturbed`` scores of one image: int32 [K] into ``ids``."""
    num, num_kept = len(scores), len(ids)
    if temperature > 0:
        for i in range(num):
            scores[i] = scores[i] / temperature - np.log(-np.log(noise[i] + 2.0**-25))
    worst = np.sort(scores)[num - num_kept]  # of those that are kept
    better = 0
    for i in range(num):
        better += scores[i] > worst
    ties, place = num_kept - better, 0
    for i in range(num):
        if scores[i] == worst and ties > 0:
            ties -= 1
        elif scores[i] <= worst:
            continue
        ids[place] = i
        place += 1
