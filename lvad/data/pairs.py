"""Image-text pairs for the reward model (Appendix B.2 of the paper)."""

import torch
from torch import Tensor


def draw_negatives(is_true: Tensor, num_negatives: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw wrong labels for each scene, never one that is true of it.

    The paper draws "a different reason" for a scene; in a multi-label set that one may be true as well.

    Args:
        is_true: bool[B, C], the labels of each scene.
        num_negatives: N, drawn without replacement.
        generator: source of randomness.

    Returns:
        int64[B, N], indices of labels that are false.

    Raises:
        ValueError: if a scene has fewer than N false labels.
    """
    fewest = int((~is_true).sum(1).min())
    if fewest < num_negatives:
        raise ValueError(f"num_negatives is {num_negatives}, but a scene has only {fewest} false labels")
    return torch.multinomial((~is_true).float(), num_negatives, generator=generator)


def draw_positives(is_true: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw one true label for each scene that has one.

    Args:
        is_true: bool[B, C].
        generator: source of randomness.

    Returns:
        int64[S], the rows that have a true label, and int64[S], the label drawn for each.
    """
    rows = is_true.any(1).nonzero().squeeze(1)
    if not len(rows):
        return rows, rows
    return rows, torch.multinomial(is_true[rows].float(), 1, generator=generator).squeeze(1)
