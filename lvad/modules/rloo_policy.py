"""Stage 1: policy gradients on unlabelled scenes (Algorithm 2, Eq. 1; Algorithm 4 with a critic).

Departures from the paper, each a value in the configuration:
1. A KL term to the reference, which is the initial policy; the paper had none and its policy forgot.
2. A prompt; the paper asked nothing in this stage.
3. The differentiated distribution is the sampled one, truncation included.
"""

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lvad.estimators import RLOO, Estimate, Estimator, ScoredRollouts
from lvad.evaluation.greedy_scores import GreedyScores
from lvad.evaluation.reward_check import Strictness, check_reward, scale_reward_terms, validation_scenes, win_rates
from lvad.modules.stage_base import Shardable
from lvad.objectives.regularisation import KL, AdaptiveKL, Regularisation, check_finite
from lvad.ops import on_host
from lvad.optimizers import make_optimizer
from lvad.ranks import log_gathered, mean_over_ranks, num_ranks, score_together, together
from lvad.rewards.freeze import freeze_module
from lvad.rollouts import (
    Experience,
    RolloutReuse,
    RolloutRewards,
    experience_stats,
    first_scenes,
    sample,
    scene_samples,
    values_of_all_ranks,
    without_dropped_scenes,
)
from lvad.sharded_weights import total_norm, whole_weights
from lvad.trained_weights import check_loaded_checkpoint, keep_trained_weights
from lvad.types import Batch, Policy, Prediction, Prefix, Reward, Rollouts, SceneSamples, Scores

NUM_SHOWN = 4


class RLOOPolicy(Shardable):
    """Trains a policy by policy gradients on the reward of a frozen model.

    Args:
        policy: the vision-language model to train.
        reward: the reward model; its weights are never trained.
        estimator: of the policy gradient (``lvad.estimators``); None is RLOO.
        num_completions: K, completions per scene.
        kl: the KL penalty to the reference, which is the initial policy; None for none, and no reference is kept.
        regularisation: entropy bonus, rehearsal, reward limits, and how often a rollout is used.
        judge: a second reward that is never trained on; its mean on the validation scenes is ``val/judge``, a score to
            choose a checkpoint by and to see reward hacking with.
        answers: the policy answers with actions and reasons (Algorithm 4): validation and test score them.
        audit: ``refuse`` a reward that cannot tell right from wrong on the validation scenes, ``warn``, or do not look
            (``off``). The win rate of the right text over each probe is logged as ``audit/<probe>``.
        optimizer: makes the optimizer from the trained parameters.
        lr_scheduler: makes a schedule in optimizer steps; None keeps the rate constant.

    Raises:
        ValueError: for fewer completions than the estimator needs, or a policy without a trained parameter.
    """

    next_step, loss_is = "lvad test", "loss of the policy gradient: no score, it need not fall"
    """What ``RunRecorder`` prints as the next command, and calls the loss in its figure."""

    def __init__(
        self,
        policy: Policy,
        reward: Reward,
        estimator: Estimator | None = None,
        num_completions: int = 8,
        kl: KL | None = KL(),
        regularisation: Regularisation = Regularisation(),
        judge: Reward | None = None,
        answers: bool = False,
        audit: Strictness = "refuse",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        estimator = estimator or RLOO()
        if num_completions < (least := estimator.min_completions):
            raise ValueError(f"num_completions must be >= {least} ({type(estimator).__name__}), got {num_completions}")
        if not isinstance(policy, nn.Module):
            raise ValueError(f"policy must be an nn.Module, got {type(policy).__name__}")
        self.policy, self.reward = policy, freeze_module(reward, "reward")
        estimator.prepare(policy.state_size)
        self.estimator, self.num_completions = estimator, num_completions
        self.kl = AdaptiveKL(kl) if kl else None
        self.regularisation, self.rehearsal = regularisation, regularisation.rehearsal
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.judge = None if judge is None else freeze_module(judge, "judge")
        self.audit: Strictness = audit
        self.greedy_scores = GreedyScores(judge, answers)
        # The same lists: ``GreedyScores`` fills them, and ``RunRecorder`` reads them here.
        self.answered, self.scored = self.greedy_scores.answered, self.greedy_scores.scored
        self.samples: list[SceneSamples] = []
        self.shown: list[Tensor] = []
        self.strict_loading = False  # a checkpoint holds the trained weights only (``lvad.trained_weights``)
        self.reuse, self._step_start_s = RolloutReuse(regularisation.updates, regularisation.clip_epsilon), 0.0
        if kl:
            policy.keep_reference()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Collect experience (sample, reward, advantages) and take the loss; later updates reuse the experience."""
        prefix = self.policy.encode(batch)
        if self.reuse.is_first:
            self.reuse.keep(self._collect(batch, prefix))
        experience = self.reuse.experience
        logps = self.policy.logprobs(prefix, experience.rollouts)
        loss, stats = self._loss(logps, experience)
        return self._log_step(experience, loss, stats)

    def _collect(self, batch: Batch, prefix: Prefix) -> Experience:
        """Sample completions, reward them, and turn the rewards into advantages."""
        rollouts = sample(self.policy, prefix, self.num_completions)
        rewards = self._reward(batch, prefix, rollouts)
        estimate = self._advantages(batch, prefix, rollouts, rewards)
        return Experience(rollouts, rewards, estimate, experience_stats(rollouts, rewards, estimate))

    def _reward(self, batch: Batch, prefix: Prefix, rollouts: Rollouts) -> RolloutRewards:
        """Score the completions, subtract the KL penalty and adapt its weight; keep ``ref_logps`` for the KL loss."""
        scores, is_kept = self._score(batch, rollouts)
        rewards = self.regularisation.adjusted(scores.total, rollouts)
        if self.kl is None:
            return RolloutRewards(scores, is_kept, rewards)
        ref_logps = self.policy.reference_logprobs(batch, prefix, rollouts)
        kl = self.kl.measure(rollouts.logps, ref_logps, rollouts.completion_mask)
        stats = {"train/kl": kl.mean(), "train/kl_beta": torch.tensor(self.kl.beta, dtype=torch.float32)}
        rewards = rewards - self.kl.penalty(kl)
        if self.kl.config.target is not None:  # after the penalty: this batch has the weight that is logged
            self.kl.adapt(float(torch.as_tensor(self.all_gather(kl.mean())).mean()))
        return RolloutRewards(scores, is_kept, rewards, ref_logps, stats)

    def _advantages(self, batch: Batch, prefix: Prefix, rollouts: Rollouts, rewards: RolloutRewards) -> Estimate:
        """Weight each completion by the estimator; a scene that takes no part has advantages of 0."""
        states, greedy = lambda: self.policy.states(prefix), lambda: self._greedy_rewards(batch, prefix)
        scored = ScoredRollouts(rewards.adjusted, rewards.is_kept, rollouts, states, greedy)
        return without_dropped_scenes(self.estimator.estimate(scored), rewards.is_kept)

    def _loss(self, logps: Tensor, experience: Experience) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up policy gradient, KL, critic and rehearsal: the loss, float[], and what is logged of it."""
        mask, ref_logps = experience.rollouts.completion_mask, experience.rewards.ref_logps
        loss, stats = self.reuse.policy_loss(logps)
        if self.kl is not None and ref_logps is not None:
            loss = loss + self.kl.loss(logps, ref_logps, mask)
        if experience.estimate.loss is not None:  # a critic learns once from each rollout
            loss = loss + (experience.estimate.loss if self.reuse.is_first else self.estimator.zero_loss())
        if self.rehearsal:
            step = self.trainer.fit_loop.epoch_loop.total_batch_idx
            rehearsed, logged = self.rehearsal.loss(self.policy, step, self.global_rank, self.trainer.world_size)
            loss, stats = loss + rehearsed, stats | logged
        return loss, stats

    def _log_step(self, experience: Experience, loss: Tensor, stats: dict[str, Tensor]) -> dict[str, Tensor]:
        """Log a step; return the loss for the backward pass, and the number of tokens for the speed."""
        num_scenes, num_tokens = len(experience.rollouts.texts), experience.rollouts.completion_mask.sum()
        values = on_host({**experience.stats, **stats, "train/loss": loss, "num_tokens": num_tokens})
        num_tokens = values.pop("num_tokens")
        values = values_of_all_ranks(values, self.device, self.regularisation.non_finite == "drop")
        self.log_dict(values, batch_size=num_scenes)
        shown = {name: values[key] for name, key in (("reward", "reward/mean"), ("kl", "train/kl")) if key in values}
        self.log_dict(shown, prog_bar=True, logger=False, batch_size=num_scenes)
        return {"loss": self.scaled_loss(loss, num_scenes), "num_tokens": num_tokens}

    def _score(self, batch: Batch, rollouts: Rollouts) -> tuple[Scores, Tensor]:
        drop = self.regularisation.non_finite == "drop"
        return together(lambda: check_finite(self.reward.score(batch, rollouts), batch.ids, drop))

    def _greedy_rewards(self, batch: Batch, prefix: Prefix) -> tuple[Tensor, Tensor]:
        scores, is_finite = self._score(batch, self.policy.generate(prefix, 1, greedy=True))
        return scores.total[:, 0].clamp(*self.regularisation.limits), is_finite

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Make as many updates as ``regularisation.updates`` says; each runs ``training_step`` again."""
        for _ in self.reuse.each_update():
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the policy's gradient without the critic's, which has another scale and would change the norm."""
        with self.estimator.gradients_set_aside():
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score greedy texts of the validation scenes; sample K texts of the first few for the record."""
        self._add_greedy_scores(batch)
        if batch_idx == 0:
            scenes = first_scenes(batch, NUM_SHOWN)
            rollouts = sample(self.policy, self.policy.encode(scenes), self.num_completions, seed=0)
            self.samples = scene_samples(scenes, rollouts, score_together(self.reward, scenes, rollouts))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score greedy texts of the test scenes; keep the first frames for the report."""
        self._add_greedy_scores(batch)
        self.shown += [frames.cpu() for frames in batch.frames[: max(0, NUM_SHOWN - len(self.shown))]]

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        """Return greedy descriptions with their rewards."""
        rollouts = self.policy.generate(self.policy.encode(batch), 1, greedy=True)
        rewards = self.reward.score(batch, rollouts).total[:, 0].tolist()
        return [Prediction(*row) for row in zip(batch.ids, (t[0] for t in rollouts.texts), rewards, strict=True)]

    def configure_optimizers(self) -> Any:
        """Make the optimizer of the policy, with its schedule; a critic has a learning rate of its own."""
        return make_optimizer(self, self.optimizer, self.lr_scheduler, self.estimator, self.estimator.lr)

    def prepare_data(self) -> None:
        """Prepare the labelled scenes of the rehearsal on disk."""
        if self.rehearsal:
            self.rehearsal.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Read the labelled scenes of the rehearsal."""
        if self.rehearsal and stage == "fit":
            self.rehearsal.setup()

    def on_fit_start(self) -> None:
        """Scale the reward's terms if it asks for that, and audit the reward before anything is trained on it."""
        self.regularisation.check_accumulation(self.trainer.accumulate_grad_batches)
        if self.trainer.ckpt_path is not None:  # it was done when the run began
            return
        scenes = validation_scenes(getattr(self.trainer, "datamodule", None))
        with whole_weights(self):
            together(scale_reward_terms, self.policy, self.reward, scenes, self.num_completions, self.device)
            audit = together(check_reward, self.policy, self.reward, scenes, self.device, self.audit)
        if audit is not None and self.logger is not None:
            self.logger.log_metrics(win_rates(audit), self.trainer.global_step)

    def on_validation_epoch_start(self) -> None:
        """Reset the scores of the last validation."""
        self.greedy_scores.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation scenes."""
        log_gathered(self, {f"val/{name}": value for name, value in self.greedy_scores.compute().items()})

    def on_test_epoch_start(self) -> None:
        """Reset the scores of the last test."""
        self.greedy_scores.reset()
        self.shown = []

    def on_test_epoch_end(self) -> None:
        """Log the test scores."""
        log_gathered(self, {f"test/{name}": value for name, value in self.greedy_scores.compute().items()})

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Refresh the reference when it is due, and note when the step begins."""
        # Before a step and not after the last one: a checkpoint in between may have been written either way.
        num_steps = self.global_step * self.regularisation.updates  # Lightning counts a rollout's steps as one
        if self.kl is not None and self.kl.is_due(num_steps):
            with whole_weights(self):
                self.policy.refresh_reference()
            self.kl.mark_refreshed(num_steps)
        self._step_start_s = time.perf_counter()

    def on_train_batch_end(self, outputs: dict[str, Tensor], batch: Batch, batch_idx: int) -> None:
        """Log the speed of the step."""
        elapsed_s = time.perf_counter() - self._step_start_s
        mean = mean_over_ranks({"speed": outputs["num_tokens"] / elapsed_s}, self.device)["speed"]
        self.log("time/tokens_per_s", num_ranks() * mean, batch_size=len(batch.ids))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the gradient norm of the policy before clipping."""
        super().on_before_optimizer_step(optimizer)
        if not self.reuse.is_first:
            self.estimator.zero_grad()  # a gradient of zeros would still move what has momentum or decay
        self.log("train/grad_norm", total_norm([p.grad for p in self.policy.parameters() if p.grad is not None]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the trained weights, the weight of the KL, and the reference if it was refreshed."""
        keep_trained_weights(checkpoint, self)
        checkpoint["reference"] = self.policy.reference_state()
        if self.kl is not None:
            checkpoint["kl"] = self.kl.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the weights, and restore the reference and the weight of the KL."""
        check_loaded_checkpoint(self, checkpoint)
        if self.kl is not None and "kl" in checkpoint:
            self.kl.load_state_dict(checkpoint["kl"])
        if state := checkpoint.get("reference"):
            with whole_weights(self):
                self.policy.load_reference_state(state)

    def export(self, folder: Path) -> None:
        """Write the trained policy as a folder that plain transformers loads."""
        self.policy.save_pretrained(folder)

    def _add_greedy_scores(self, batch: Batch) -> None:
        rollouts = self.policy.generate(self.policy.encode(batch), 1, greedy=True)
        self.greedy_scores.update(batch, rollouts, score_together(self.reward, batch, rollouts))
