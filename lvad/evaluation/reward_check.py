"""The audit of a reward that stands at the beginning of reinforcement learning."""

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
"""Validation scenes that are looked at."""
NUM_CALIBRATING: Final = 32
"""Validation scenes that the terms of a reward are measured on."""

Strictness = Literal["refuse", "warn", "off"]


def validation_scenes(data: object) -> list[Batch]:
    """The first validation scenes, the same on every device, on the CPU; none where the data is not lvad's own."""
    if not isinstance(data, BDDOIADataModule):
        return []
    scenes, size = data.scenes["val"][:NUM_SCENES], data.eval_batch_size
    items = [(scene, decode_scene(scene, data.source.num_frames, data.source.image_size_px)) for scene in scenes]
    return [collate(items[i : i + size], data.taxonomy) for i in range(0, len(items), size)]


@runtime_checkable
class _Calibrated(Protocol):
    is_calibrated: Tensor

    def calibrate(self, batch: Batch, rollouts: Rollouts) -> None: ...


@torch.no_grad()
def calibrate(policy: Policy, reward: Reward, scenes: list[Batch], num_completions: int, device: torch.device) -> None:
    """Bring the terms of a reward that asks for it to one scale, by what the policy says before it is trained.

    Done once: a run that goes on keeps the scales that its checkpoint holds.

    Raises:
        DataError: without validation scenes to draw completions for.
    """
    if not isinstance(reward, _Calibrated) or bool(reward.is_calibrated):
        return
    if not scenes:
        raise DataError(
            "a reward with normalise needs validation scenes to measure its terms on: give some, or set it false"
        )
    batch = first_scenes(scenes[0], NUM_CALIBRATING)
    batch = batch._replace(frames=[frames.to(device) for frames in batch.frames])
    reward.calibrate(batch, sample(policy, policy.encode(batch), num_completions, seed=0))


def audit_reward(policy: Policy, reward: Reward, scenes: list[Batch], device: torch.device) -> Audit | None:
    """Audit on captions where there are some, else on true reasons, else on what the policy says by itself.

    Args:
        policy: speaks for scenes without captions and labels.
        reward: the judge.
        scenes: as of ``validation_scenes``.
        device: of the policy.

    Returns:
        None where the scenes are too few for an audit.
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
    """Audit a reward and act on what is found; None where nothing was looked at.

    Raises:
        RewardRefused: naming the probes that failed, if ``strictness`` is ``refuse``.
    """
    if strictness == "off":
        return None
    audit = audit_reward(policy, reward, scenes, device) if scenes else None
    enforce(audit, strictness)
    return audit


def win_rates(audit: Audit) -> dict[str, float]:
    """How often the right text beats each probe, by ``audit/<probe>``."""
    return {f"audit/{name}": probe.win_rate.mean for name, probe in audit.probes.items() if probe.win_rate}


def enforce(audit: Audit | None, strictness: Strictness) -> None:
    """Say what was found, and refuse a reward that fails where right and wrong are known.

    A policy's own descriptions prove nothing against a reward: they may be what is wrong.

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
