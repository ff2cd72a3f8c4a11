"""Run the audit of a reward: collect the texts, score them, judge the scores."""

from collections.abc import Iterable

import torch

from lvad.audit.probes import probe_texts
from lvad.audit.ranking import rank_candidates
from lvad.audit.right_texts import RightTexts, TextSource, merge_batches
from lvad.audit.scoring import score_texts
from lvad.audit.verdict import MIN_SCENES, Audit, judge_probes
from lvad.errors import DataError
from lvad.types import Batch, Reward


def run_audit(
    reward: Reward, batches: Iterable[Batch], texts: TextSource | list[str] = "reason", seed: int = 0
) -> Audit:
    """Audit a reward: score the right text of every scene and the probes, and judge them.

    Args:
        reward: the judge.
        batches: N scenes. They are read twice, the second time with their frames, so that not all frames are held at
            once: a list, or a loader that does not shuffle.
        texts: where the right texts come from: a true reason, action or output drawn from the labels, the last
            caption of synthetic scenes, or N texts, one per scene in order, such as a policy's descriptions. Probes
            that need labels or facts which the scenes lack are skipped. For given texts without facts it is unknown
            whether another scene's text is wrong; ``other_scene`` is then a text that says something else.
        seed: seed of the draws: the right text of a scene with several, the other scene, the order of words.

    Raises:
        DataError: if the scenes lack what ``texts`` speaks of, or fewer than 8 have a right text.
        ValueError: if a reward is not finite or of a wrong shape, ``batches`` cannot be read twice, or ``texts`` has
            another length or is unknown.
    """
    generator = torch.Generator().manual_seed(seed)
    right = RightTexts(merge_batches(batches), texts, generator)
    num_scenes = sum(bool(text.strip()) for text in right.texts)
    if num_scenes < MIN_SCENES:
        raise DataError(f"an audit needs {MIN_SCENES} scenes with a right text, got {num_scenes}; give it more scenes")
    scored = score_texts(reward, batches, right, probe_texts(right, generator))
    standing = None
    if right.found is not None and scored.candidates is not None:
        standing = rank_candidates(scored.right, scored.candidates, right.found)
    return Audit(right.source, num_scenes, judge_probes(scored), standing)
