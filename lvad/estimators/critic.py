"""Advantage actor-critic: a small network learns the baseline."""

import torch
from torch import Tensor, nn

from lvad.estimators.base import Estimate, Estimator, ScoredRollouts
from lvad.losses.policy_gradient import over_baseline


class A2C(Estimator):
    """The baseline of a scene is a critic's estimate of its reward, from the policy's hidden state.

    Unbiased: the mean is K grad E[R], however bad the critic, which does not see the completions. The critic is an MLP
    on the policy's hidden state after the prompt (the last token's, which has attended to everything before it), and
    learns by the squared error to the K rewards. Its gradient does not reach the policy.

    Args:
        lr: of the critic; the policy has its own.
        hidden_size: of the critic's two hidden layers.
        warmup_steps: training batches in which only the critic learns: the advantages are 0.

    Raises:
        ValueError: for sizes below 1, a rate that is not positive, or a negative warm-up.

    Source:
        Algorithm 4 and Appendix A.3 of the paper ("a simple multilayer perceptron"); Konda and Tsitsiklis 1999.
    """

    min_completions = 1
    num_steps: Tensor
    """int64[], training batches so far."""

    def __init__(self, lr: float = 1e-3, hidden_size: int = 128, warmup_steps: int = 10) -> None:
        super().__init__()
        if not lr > 0:
            raise ValueError(f"lr must be > 0, got {lr}")
        if hidden_size < 1:
            raise ValueError(f"hidden_size must be >= 1, got {hidden_size}")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must be >= 0, got {warmup_steps}")
        self.lr, self.hidden_size, self.warmup_steps = lr, hidden_size, warmup_steps
        self.critic: nn.Module = nn.Identity()
        self.register_buffer("num_steps", torch.tensor(0))

    def prepare(self, state_size: int) -> None:
        """Build the critic, which at first estimates 0 for every scene."""
        width = self.hidden_size
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        # The norm makes the critic's rate independent of how large the policy's states are.
        self.critic = nn.Sequential(
            nn.LayerNorm(state_size), nn.Linear(state_size, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), last
        )

    def estimate(self, scored: ScoredRollouts) -> Estimate:
        """Compute advantages float[B, K], the critic's loss, and how much of the rewards' variance it explains."""
        with torch.autocast(scored.rewards.device.type, enabled=False):
            values = self.critic(scored.states().float()).squeeze(-1)
        is_warm = self.num_steps >= self.warmup_steps
        self.num_steps += 1
        advantages = over_baseline(scored.rewards, values.detach().to(scored.rewards.dtype))
        targets = scored.rewards.to(values.dtype)
        guesses = values.unsqueeze(1).expand_as(targets)
        kept = scored.is_kept.unsqueeze(1).expand_as(targets)
        # An empty sum if no scene is kept, so that every process has a gradient.
        loss = torch.where(kept, (guesses - targets).square(), 0.0).sum() / kept.sum().clamp(min=1)
        known = torch.stack([guesses.detach(), targets, kept]).cpu()  # one read of the device
        explained = explained_variance(*known[:2, known[2].bool()])
        logged = {"critic/loss": loss.detach(), "critic/explained_variance": explained}
        return Estimate(torch.where(is_warm, advantages, 0.0), loss, logged)


def explained_variance(guesses: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - Var(target - guess) / Var(target): 1 for a perfect critic, 0 for a constant one or no variance."""
    if targets.numel() < 2:
        return targets.new_zeros(())
    total = targets.var()
    return torch.where(total > 0, 1 - (targets - guesses.detach()).var() / total, torch.zeros_like(total))
