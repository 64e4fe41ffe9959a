"""Ranks for tests of what each of them does by itself."""

import torch

from engine.ranks.world import World

ALONE = World(0, 1, 0, 1, torch.device("cpu"), ("here",))
SECOND_OF_TWO = World(1, 2, 1, 2, torch.device("cpu"), ("here", "here"))
