"""The audit of a reward, and the scaling of its terms, before a policy is trained on it."""

from typing import Final, Literal, Protocol, runtime_checkable

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lvad.audit import Audit, run_audit
from lvad.data.collate import collate, decode_scene
from lvad.data.datamodule import BDDOIADataModule
from lvad.errors import DataError, RewardRefused
from lvad.rollouts import first_scenes, sample
from lvad.types import UNLABELLED, Batch, Policy, Reward, Rollouts

NUM_SCENES: Final = 64
"""Validation scenes that the audit uses."""
NUM_SCALING: Final = 32
"""Validation scenes that the terms of a reward are measured on."""

Strictness = Literal["refuse", "warn", "off"]


def validation_scenes(data: object) -> list[Batch]:
    """Read the first validation scenes, the same on every device, on the CPU; none of a loader that is not lvad's."""
    if not isinstance(data, BDDOIADataModule):
        return []
    scenes, size = data.scenes["val"][:NUM_SCENES], data.eval_batch_size
    items = [(scene, decode_scene(scene, data.source.num_frames, data.source.image_size_px)) for scene in scenes]
    return [collate(items[i : i + size], data.taxonomy) for i in range(0, len(items), size)]


@runtime_checkable
class _Calibrated(Protocol):
    """A reward whose terms are measured before training."""

    is_calibrated: Tensor

    def calibrate(self, batch: Batch, rollouts: Rollouts) -> None: ...


@torch.no_grad()
def scale_reward_terms(
    policy: Policy, reward: Reward, scenes: list[Batch], num_completions: int, device: torch.device
) -> None:
    """Bring the terms of a reward to one scale if it asks for that, measured on texts of the untrained policy.

    This is done once: a resumed run keeps the scales of its checkpoint.

    Raises:
        DataError: without validation scenes to draw completions for.
    """
    if not isinstance(reward, _Calibrated) or bool(reward.is_calibrated):
        return
    if not scenes:
        raise DataError(
            "a reward with normalise needs validation scenes to measure its terms on: give some, or set it false"
        )
    batch = first_scenes(scenes[0], NUM_SCALING)
    batch = batch._replace(frames=[frames.to(device) for frames in batch.frames])
    reward.calibrate(batch, sample(policy, policy.encode(batch), num_completions, seed=0))


def audit_reward(policy: Policy, reward: Reward, scenes: list[Batch], device: torch.device) -> Audit | None:
    """Audit on captions if every scene has one, else on true reasons, else on the policy's own descriptions.

    Args:
        policy: describes the scenes if they have neither captions nor labels.
        reward: the reward model to audit.
        scenes: as returned by ``validation_scenes``.
        device: of the policy.

    Returns:
        The audit; None if there are too few scenes for one.
    """
    try:
        if all(captions for batch in scenes for captions in batch.captions):
            return run_audit(reward, scenes, "caption")
        if not any((batch.reasons == UNLABELLED).any() for batch in scenes):
            return run_audit(reward, scenes, "reason")
        return run_audit(reward, scenes, [text for batch in scenes for text in _describe(policy, batch, device)])
    except DataError:  # fewer scenes with a text than an audit needs
        return None


@torch.no_grad()
def _describe(policy: Policy, batch: Batch, device: torch.device) -> list[str]:
    moved = batch._replace(frames=[frames.to(device) for frames in batch.frames])
    return [row[0] for row in policy.generate(policy.encode(moved), 1, greedy=True).texts]


def check_reward(
    policy: Policy, reward: Reward, scenes: list[Batch], device: torch.device, strictness: Strictness
) -> Audit | None:
    """Audit a reward and act on the result; None if nothing was audited.

    Raises:
        RewardRefused: naming the probes that failed, if ``strictness`` is ``refuse``.
    """
    if strictness == "off":
        return None
    audit = audit_reward(policy, reward, scenes, device) if scenes else None
    act_on_audit(audit, strictness)
    return audit


def win_rates(audit: Audit) -> dict[str, float]:
    """Return how often the right text beats each probe, by ``audit/<probe>``."""
    return {f"audit/{name}": probe.win_rate.mean for name, probe in audit.probes.items() if probe.win_rate}


def act_on_audit(audit: Audit | None, strictness: Strictness) -> None:
    """Print the result of an audit, and refuse a reward that fails where right and wrong texts are known.

    A failure on the policy's own descriptions proves nothing against a reward: the descriptions may be wrong.

    Raises:
        RewardRefused: naming the probes that failed.
    """
    if audit is None:
        rank_zero_warn("the reward was not audited: that needs 8 validation scenes with a text")
        return
    passed = sum(probe.verdict == "pass" for probe in audit.probes.values())
    failed = f", failed: {', '.join(audit.failed)}" if audit.failed else ""
    rank_zero_info(f"reward audit on {audit.num_scenes} scenes ({audit.texts}): {passed} probes passed{failed}")
    if audit.tells_right_from_wrong or audit.texts == "given":
        return
    problem = f"the reward cannot tell right from wrong on {audit.num_scenes} validation scenes{failed}"
    remedy = "look at it with `lvad audit`, tune it with configs/clip_reward.yaml, or set model.init_args.audit to warn"
    if strictness == "refuse":
        raise RewardRefused(f"{problem}; {remedy}")
    rank_zero_warn(f"{problem}; {remedy}")
