"""The difference of two systems on the same scenes and seeds, with an interval over both scenes and seeds.

Shape letters of this file: N scenes, C labels (A or R), D draws, S seeds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lvad.metrics.intervals import Interval


class SeedAnswers(NamedTuple):
    """The answers of a system to N test scenes, after training with one seed."""

    predicted: Tensor
    """bool[N, C]."""
    true: Tensor
    """bool[N, C]."""
    recordings: list[str]
    """N names; scenes of one recording are drawn together."""


def weighted_macro_f1(
    predicted: Bool[Tensor, "N C"], true: Bool[Tensor, "N C"], weights: Float[Tensor, "D N"]
) -> Float[Tensor, " D"]:
    """Compute macro-F1 of weighted scenes: the mean over classes of 2 TP / (predicted + true).

    Args:
        predicted: label sets.
        true: label sets.
        weights: weight of each scene, at least 0: counts of a bootstrap's draws, or ones.

    Returns:
        Macro-F1 of each row of weights; as in ``lvad.metrics.multilabel``, a class that is neither predicted nor true
        has F1 0.
    """
    both, either = (predicted & true).to(weights), predicted.to(weights) + true.to(weights)
    return (2 * (weights @ both) / (weights @ either).clamp_min(1e-12)).mean(1)


def paired_difference(
    first: Sequence[SeedAnswers], second: Sequence[SeedAnswers], num_draws: int = 2000, seed: int = 0
) -> Interval:
    """Compute the difference of macro-F1, first minus second, mean over seeds, with a 95 % bootstrap interval.

    Each draw takes S seeds and as many recordings as there are, both with replacement, and the same ones for both
    systems.

    Args:
        first: answers of the first system, one per seed, S.
        second: answers of the second system, for the same seeds and scenes in the same order.
        num_draws: number of resamples.
        seed: the same values give the same interval.

    Raises:
        ValueError: for no seeds, other seeds, or truths that differ.

    Source:
        Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2): rows and columns are drawn apart.
    """
    if not first or len(first) != len(second):
        raise ValueError(f"paired_difference takes the same seeds of both, got {len(first)} and {len(second)}")
    if any(not torch.equal(one.true, two.true) for one, two in zip(first, second, strict=True)):
        raise ValueError("truths differ; a paired comparison needs the same scenes in the same order")
    generator = torch.Generator().manual_seed(seed)
    places = {name: i for i, name in enumerate(dict.fromkeys(name for said in first for name in said.recordings))}
    counts = _recording_counts(len(places), num_draws, generator)
    columns = []
    for one, two in zip(first, second, strict=True):
        weights = counts[:, [places[name] for name in one.recordings]]
        columns.append(
            weighted_macro_f1(one.predicted, one.true, weights) - weighted_macro_f1(two.predicted, two.true, weights)
        )
    values = torch.stack(columns, 1)
    seeds = torch.randint(len(first), (num_draws, len(first)), generator=generator)
    draws = values[1:].gather(1, seeds).mean(1)
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(float(values[0].mean()), low, high)


def _recording_counts(num_recordings: int, num_draws: int, generator: torch.Generator) -> Tensor:
    """Count how often each draw takes each recording: float64[1 + D, recordings]; the first row takes each once."""
    drawn = torch.randint(num_recordings, (num_draws, num_recordings), generator=generator)
    counts = torch.zeros(num_draws, num_recordings, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return torch.cat([torch.ones(1, num_recordings, dtype=torch.float64), counts])
