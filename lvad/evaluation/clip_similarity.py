"""Similarity of right and wrong texts to their scenes, before and after a CLIP is tuned (Table 1 of the paper)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor

from lvad.data.pairs import TEXT_KINDS, Candidates, candidates, sample_pairs
from lvad.errors import DataError
from lvad.metrics.calibration import fit_platt
from lvad.metrics.matching import Matches, MatchTable
from lvad.rewards.clip import CLIP
from lvad.types import Batch, MatchProbabilities, Table

PROBES: Final = ("123", "abc")
"""Texts without content: in the paper the pretrained CLIP scored them as high as right ones."""
WHEN: Final = ("before", "after")
_PROBES: Final = "probes"


def interpolate(start: Tensor, tuned: Tensor, share: float) -> Tensor:
    """Return ``share * tuned + (1 - share) * start``, in the start's precision: the tuned weight may have 16 bits."""
    return start.to(tuned.device).lerp(tuned.to(start.dtype), share)


@contextmanager
def interpolated_weights(clip: CLIP, start: Mapping[str, Tensor], share: float) -> Iterator[None]:
    """Give a CLIP the weights ``share * tuned + (1 - share) * start`` inside a block.

    Source:
        Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT), Eq. 1.
    """
    if share == 1:
        yield
        return
    parameters = {name: p for name, p in clip.named_parameters() if name in start}
    tuned = {name: p.detach().clone() for name, p in parameters.items()}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(interpolate(start[name], parameter, share))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tuned[name])


def match_probabilities(matches: Matches, calibration: Tensor) -> MatchProbabilities:
    """Draw the paper's pairs, a right and a wrong text per scene, and compute their P(match).

    The draw has its own seed, so the same scenes give the same pairs.
    """
    scores, is_match = _drawn_scores(matches)
    return MatchProbabilities(torch.sigmoid(calibration[0] * scores + calibration[1]), is_match)


def fit_match_calibration(matches: Matches) -> Tensor:
    """Fit slope and offset of P(match), float[2], on the paper's pairs, of which half match."""
    return fit_platt(*_drawn_scores(matches)).float()


def _drawn_scores(matches: Matches) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pairs = sample_pairs(Candidates((), matches.is_true, matches.is_false), 1, generator)
    scores = matches.scores[pairs.rows].gather(1, pairs.texts).float()
    is_match = torch.tensor([True, False], device=scores.device).expand_as(scores)
    return scores.flatten(), is_match.flatten()


class Similarity:
    """Collects the cosines of all kinds of texts over the test scenes, before and after tuning, on all ranks."""

    def __init__(self) -> None:
        names = (*TEXT_KINDS, _PROBES)
        self.tables = {f"{name} {when}": MatchTable() for name in names for when in WHEN}

    def reset(self) -> None:
        """Drop all scenes."""
        for table in self.tables.values():
            table.reset()

    @torch.no_grad()
    def update(self, when: str, clip: CLIP, batch: Batch) -> None:
        """Add a batch of scenes; a kind of texts whose labels they lack is left out.

        Args:
            when: "before" or "after".
            clip: with the weights of that time.
            batch: the scenes.
        """
        images = clip.embed_frames(batch.frames)
        for kind in TEXT_KINDS:
            try:
                found = candidates(kind, batch)
            except DataError:
                continue
            cosines = images @ clip.embed_texts(list(found.texts)).T
            self.tables[f"{kind} {when}"].update(batch.ids, cosines, found.is_true, found.is_false)
        cosines = images @ clip.embed_texts(list(PROBES)).T
        nothing = torch.zeros_like(cosines, dtype=torch.bool)
        self.tables[f"{_PROBES} {when}"].update(batch.ids, cosines, nothing, nothing)

    def table(self, start_calibration: Tensor, calibration: Tensor) -> Table:
        """Make Table 1: mean cosine, mean P(match) and share with P > 0.5, of right texts and of wrong ones.

        Args:
            start_calibration: slope and offset of P(match) for the CLIP before tuning.
            calibration: the same after it.
        """
        fitted = dict(zip(WHEN, (start_calibration, calibration), strict=True))
        columns: dict[str, list[str]] = {}
        for when, numbers in fitted.items():
            for name, scores in self._scores(when):
                columns.setdefault(name, []).extend(_cells(scores, numbers))
        return Table(
            "Table 1: similarity before and after tuning",
            ("image-text pairing", *(f"{name}, {when}" for when in WHEN for name in ("cosine", "P(match)", "match %"))),
            tuple((name, *cells) for name, cells in columns.items()),
        )

    def _scores(self, when: str) -> Iterator[tuple[str, Tensor]]:
        for kind in TEXT_KINDS:
            matches = self.tables[f"{kind} {when}"].compute()
            if matches is not None:
                scores, is_match = _drawn_scores(matches)
                yield f"image vs. right {kind}", scores[is_match]
                yield f"image vs. wrong {kind}", scores[~is_match]
        matches = self.tables[f"{_PROBES} {when}"].compute()
        assert matches is not None
        for i, probe in enumerate(PROBES):
            yield f"image vs. '{probe}'", matches.scores[:, i]


def _cells(scores: Tensor, calibration: Tensor) -> list[str]:
    p = torch.sigmoid(calibration[0] * scores + calibration[1])
    return [f"{scores.mean():.3f}", f"{p.mean():.3f}", f"{100 * (p > 0.5).float().mean():.1f}"]
