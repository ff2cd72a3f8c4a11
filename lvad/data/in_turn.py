"""Scenes in turn, beside the loader of a stage: which ones a step takes depends on its number alone."""

import torch


def in_turn(num_scenes: int, seed: int, first: int, count: int) -> list[int]:
    """Members ``first`` to ``first + count`` of an endless series of indices: each once before any comes again.

    Args:
        num_scenes: how many there are, at least 1.
        seed: of the orders, of which every round has its own.
        first: place in the series.
        count: how many.
    """
    orders: dict[int, list[int]] = {}
    found = []
    for place in range(first, first + count):
        turn, position = divmod(place, num_scenes)
        if turn not in orders:
            generator = torch.Generator().manual_seed((seed << 20) + turn)
            orders[turn] = torch.randperm(num_scenes, generator=generator).tolist()
        found.append(orders[turn][position])
    return found
