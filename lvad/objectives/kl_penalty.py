"""The pull back to the frozen start."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lvad.losses.kl import kl_k1, kl_k2_loss, kl_k3_loss, next_beta


@dataclass(frozen=True)
class KL:
    """A penalty on KL(policy || reference); the reference is the start, or the last refresh.

    The paper had none, and its policy forgot what it could say (section 6.3).

    Args:
        beta: reward per nat and completion; 0 measures the KL and does nothing else. The optimum of an unbiased
            estimator is p_ref exp(r / beta) / Z.
        form: ``reward`` subtracts beta k1 from the reward; ``k2`` adds a loss with the same mean gradient; ``k3``, as
            in GRPO, adds one whose gradient is that of KL(reference || policy) (``lvad.losses.kl``).
        target: steer beta so that the KL, in nats per completion, goes there; None keeps beta.
        rate: of the steering, per training batch (Ziegler et al. 2019: 0.1).
        refresh_every: optimizer steps after which the policy becomes its own reference, once their rollout is used up;
            it then costs a second copy of the model. None keeps the start.

    Raises:
        ValueError: for a beta that is negative or not finite, another form, a target or rate that is not positive, a
            target with beta 0, which no factor can raise, or ``refresh_every`` below 1.
    """

    beta: float = 0.05
    form: Literal["reward", "k2", "k3"] = "reward"
    target: float | None = None
    rate: float = 0.1
    refresh_every: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"kl.beta must be >= 0 and finite, got {self.beta}")
        if self.form not in ("reward", "k2", "k3"):
            raise ValueError(f"kl.form must be reward, k2 or k3, got {self.form!r}")
        if self.target is not None and not self.target > 0:
            raise ValueError(f"kl.target must be > 0 nats, or null to keep beta, got {self.target}")
        if not self.rate > 0:
            raise ValueError(f"kl.rate must be > 0, got {self.rate}")
        if self.target is not None and self.beta == 0:
            raise ValueError("kl.target cannot steer a beta of 0: start from a small one, such as 0.01")
        if self.refresh_every is not None and self.refresh_every < 1:
            raise ValueError(f"kl.refresh_every must be >= 1 step, or null, got {self.refresh_every}")


class KLControl:
    """The penalty with its present weight, which is part of a checkpoint.

    Its numbers are the host's. As buffers they would be read back from the device at every step, rounded where a
    strategy turns a module into 16 bits, and refused by devices without float64.

    Args:
        config: what is penalised and how.
    """

    def __init__(self, config: KL) -> None:
        self.config = config
        self.beta = config.beta
        self.refreshed_at = 0  # the optimizer step of the last refresh

    def state_dict(self) -> dict[str, float]:
        """The configured and the present weight, and when the reference was last refreshed."""
        return {"configured": self.config.beta, "beta": self.beta, "refreshed_at": self.refreshed_at}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take back what ``state_dict`` gave, but for the weight where another one is configured now."""
        self.refreshed_at = int(state["refreshed_at"])
        if state["configured"] == self.config.beta:
            self.beta = float(state["beta"])

    def measure(self, logps: Tensor, ref_logps: Tensor, completion_mask: Tensor) -> Tensor:
        """k1 float[B, K], in nats per completion."""
        return kl_k1(logps, ref_logps, completion_mask)

    def penalty(self, kl: Tensor) -> Tensor:
        """float[B, K], what is taken off the reward."""
        return kl * self.beta if self.config.form == "reward" else torch.zeros_like(kl)

    def loss(self, logps: Tensor, ref_logps: Tensor, completion_mask: Tensor) -> Tensor:
        """float[], what is added to the loss, in the scale of ``reinforce``."""
        if self.config.form == "reward" or self.beta == 0:
            return logps.new_zeros(())
        term = kl_k2_loss if self.config.form == "k2" else kl_k3_loss
        return self.beta * term(logps, ref_logps, completion_mask)

    def steer(self, kl: float) -> None:
        """Move beta towards the target, after a batch with a mean KL of that many nats per completion."""
        if self.config.target is not None:
            self.beta = next_beta(self.beta, kl, self.config.target, self.config.rate)

    def is_due(self, step: int) -> bool:
        """Whether the reference is to be refreshed after that many optimizer steps."""
        every = self.config.refresh_every
        return every is not None and step // every > self.refreshed_at // every
