"""Checks which options of stage 2 (``ActionSFT``) go together."""

from lvad.answers.decision import Voting
from lvad.answers.describer import DescriptionOptions
from lvad.answers.pseudo_labelling import PseudoLabels
from lvad.answers.target_texts import Target
from lvad.objectives.fixmatch import FixMatch
from lvad.policy.sampling import Sampling


def check_sampling(sampling: Sampling) -> None:
    """Refuse a sampling that changes the model's own distribution: the likelihood is that of the model.

    Raises:
        ValueError: for a temperature other than 1, or any truncation.
    """
    if (sampling.temperature, sampling.top_k, sampling.top_p) != (1.0, 0, 1.0):
        raise ValueError(f"policy.sampling must be temperature 1, top_k 0, top_p 1 for a likelihood, got {sampling}")


def check_answer_options(
    target: Target,
    num_targets: int,
    describe: DescriptionOptions | None,
    logit_adjustment: float,
    voting: Voting | None,
) -> None:
    """Refuse options of the prompt and the decision that have no effect on the chosen target.

    Args:
        target: what is learned.
        num_targets: texts per scene and step.
        describe: what stands before the question.
        logit_adjustment: of the decision.
        voting: before the decision.

    Raises:
        ValueError: for several targets that are no captions, captions with a description or a decision, or votes over
            descriptions that are not drawn one by one.
    """
    if num_targets < 1 or (num_targets > 1 and target != "caption"):
        raise ValueError(f"num_targets must be 1 (or more for captions), got {num_targets} for {target!r}")
    if target == "caption" and (describe or logit_adjustment or voting):
        raise ValueError("target caption has no description before it and no decision: set describe null, and 0")
    if voting and voting.votes > 1 and (not describe or describe.source != "policy" or describe.best_of > 1):
        raise ValueError(f"voting.votes {voting.votes} needs the policy's own descriptions, with best_of 1")


def check_unlabelled_options(
    target: Target, describe: DescriptionOptions | None, fixmatch: FixMatch | None, pseudo_labels: PseudoLabels | None
) -> None:
    """Refuse uses of the unlabelled pool that the chosen target or prompt does not allow.

    Raises:
        ValueError: for captions, or for ``fixmatch`` with descriptions.
    """
    if (target == "caption" and (fixmatch or pseudo_labels)) or (describe and fixmatch):
        raise ValueError("fixmatch and pseudo_labels are for answers, fixmatch for those from frames alone")
