"""Stage 1, policy: REINFORCE leave-one-out on unlabelled scenes (Algorithm 2, Eq. 1 of the paper).

Departures from the paper, each a value in the configuration:
1. A KL term to the frozen start, as part of the reward (k1 estimate); the paper had none and its policy forgot.
2. A prompt; the paper asked nothing in this stage.
3. The differentiated density is the sampled one, truncation included.
"""

import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lvad.losses.advantages import leave_one_out
from lvad.losses.policy_gradient import kl_penalised, reinforce
from lvad.metrics.description import DescriptionScore
from lvad.modules.common import keep_trained_weights, make_optimizer
from lvad.modules.reward_check import Strictness, audit_reward, enforce, validation_scenes
from lvad.rollouts import advantage_stats, first_scenes, rollout_stats, sample
from lvad.types import Batch, Policy, Prediction, Reward, SceneSamples

NUM_SHOWN = 4


class RLOOPolicy(LightningModule):
    """Improves the descriptions of a policy by the reward of a frozen judge.

    Args:
        policy: the vision-language model to train.
        reward: the judge; its weights are never trained.
        num_completions: K, completions per scene; at least 2.
        audit: what to do at the start with a reward that cannot tell right from wrong on the validation scenes:
            ``refuse`` to train, ``warn``, or do not look (``off``). The win rate of the right text over each probe is
            logged as ``audit/<probe>``.
        kl_beta: weight of the KL to the frozen start in the reward, per nat and completion; 0 switches it off.
        optimizer: makes the optimizer from the policy's trained parameters.
        lr_scheduler: makes a schedule in optimizer steps; None keeps the rate constant.

    Raises:
        ValueError: for fewer than two completions, a negative weight, or a policy without a trained parameter.
    """

    next_step = "lvad test"

    def __init__(
        self,
        policy: Policy,
        reward: Reward,
        num_completions: int = 8,
        kl_beta: float = 0.1,
        audit: Strictness = "refuse",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        if num_completions < 2:
            raise ValueError(f"num_completions must be >= 2 (leave-one-out needs a sibling), got {num_completions}")
        if kl_beta < 0:
            raise ValueError(f"kl_beta must be >= 0, got {kl_beta}")
        if not isinstance(policy, nn.Module):
            raise ValueError(f"policy must be an nn.Module, got {type(policy).__name__}")
        if not isinstance(reward, nn.Module):
            raise ValueError(f"reward must be an nn.Module, got {type(reward).__name__}")
        reward.requires_grad_(False)  # whatever its author left open
        self.policy, self.reward = policy, reward
        self.num_completions, self.kl_beta = num_completions, kl_beta
        self.audit: Strictness = audit
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.held_out = DescriptionScore()
        self.samples: list[SceneSamples] = []
        self.strict_loading = False
        if kl_beta > 0:
            policy.keep_reference()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One on-policy update."""
        prefix = self.policy.encode(batch)
        rollouts = sample(self.policy, prefix, self.num_completions)
        scores = self.reward.score(batch, rollouts)
        rewards, kl = scores.total, None
        if self.kl_beta > 0:
            ref_logps = self.policy.reference_logprobs(batch, prefix, rollouts)
            rewards, kl = kl_penalised(rewards, rollouts.logps, ref_logps, rollouts.completion_mask, self.kl_beta)
        advantages = leave_one_out(rewards)
        logps = self.policy.logprobs(prefix, rollouts)
        loss = reinforce(logps, advantages, rollouts.completion_mask)

        values = {**rollout_stats(rollouts), **advantage_stats(scores.total, advantages), "train/loss": loss}
        values |= {f"reward/{name}": term.mean() for name, term in scores.terms.items()}
        if kl is not None:
            values["train/kl"] = kl.mean()
        self._log_training(values, len(batch.ids))
        return {"loss": loss, "num_tokens": rollouts.completion_mask.sum()}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Greedy descriptions of held-out scenes; K samples of the first few, to look at."""
        self._score_greedy(batch)
        if batch_idx == 0:
            self.samples = self._show(first_scenes(batch, NUM_SHOWN))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Greedy descriptions of test scenes."""
        self._score_greedy(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        """Greedy descriptions with their rewards."""
        rollouts = self.policy.generate(self.policy.encode(batch), 1, greedy=True)
        rewards = self.reward.score(batch, rollouts).total[:, 0].tolist()
        return [Prediction(*row) for row in zip(batch.ids, (t[0] for t in rollouts.texts), rewards, strict=True)]

    def configure_optimizers(self) -> Any:
        """The optimizer over what the policy trains, with its schedule per step."""
        return make_optimizer(self, self.optimizer, self.lr_scheduler)

    def on_validation_epoch_end(self) -> None:
        """Log the held-out scores."""
        self._log_held_out("val")

    def on_test_epoch_end(self) -> None:
        """Log the test scores."""
        self._log_held_out("test")

    def on_fit_start(self) -> None:
        """Audit the reward before anything is trained on it."""
        if self.audit == "off":
            return
        scenes = validation_scenes(getattr(self.trainer, "datamodule", None))
        audit = audit_reward(self.policy, self.reward, scenes, self.device) if scenes else None
        if audit is not None and self.logger is not None:
            found = {f"audit/{name}": p.win_rate.mean for name, p in audit.probes.items() if p.win_rate}
            self.logger.log_metrics(found, self.trainer.global_step)
        enforce(audit, self.audit)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Start the clock of the step."""
        self._step_start_s = time.perf_counter()

    def on_train_batch_end(self, outputs: dict[str, Tensor], batch: Batch, batch_idx: int) -> None:
        """Log the speed of the step."""
        elapsed_s = time.perf_counter() - self._step_start_s
        self.log("time/tokens_per_s", outputs["num_tokens"] / elapsed_s, batch_size=len(batch.ids))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the gradient norm before clipping."""
        grads = [p.grad for p in self.parameters() if p.grad is not None]
        self.log("train/grad_norm", torch.nn.utils.get_total_norm(grads))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained weights alone."""
        keep_trained_weights(checkpoint, self)

    def export(self, folder: Path) -> None:
        """Write the trained policy as a folder that plain transformers loads."""
        self.policy.save_pretrained(folder)

    def _score_greedy(self, batch: Batch) -> None:
        rollouts = self.policy.generate(self.policy.encode(batch), 1, greedy=True)
        scores = self.reward.score(batch, rollouts)
        self.held_out.update(rollouts, scores, batch.facts)

    def _show(self, scenes: Batch) -> list[SceneSamples]:
        rollouts = sample(self.policy, self.policy.encode(scenes), self.num_completions, seed=0)
        scores = self.reward.score(scenes, rollouts)
        advantages = leave_one_out(scores.total)
        return [
            SceneSamples(
                id=scenes.ids[b],
                frames=scenes.frames[b].cpu(),
                texts=rollouts.texts[b],
                rewards=scores.total[b].tolist(),
                advantages=advantages[b].tolist(),
                terms={name: term[b].tolist() for name, term in scores.terms.items()},
            )
            for b in range(len(scenes.ids))
        ]

    def _log_held_out(self, stage: str) -> None:
        self.log_dict({f"{stage}/{name}": value for name, value in self.held_out.compute().items()})
        self.held_out.reset()

    def _log_training(self, values: dict[str, Tensor], batch_size: int) -> None:
        self.log_dict({k: v.detach() for k, v in values.items()}, batch_size=batch_size)
        shown = {"reward": values["reward/mean"]}
        if "train/kl" in values:
            shown["kl"] = values["train/kl"]
        self.log_dict(shown, prog_bar=True, logger=False, batch_size=batch_size)
