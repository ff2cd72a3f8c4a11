"""Every estimator on a policy small enough to enumerate: what its gradient is in the mean, and how it varies."""

import itertools
import math

import pytest
import torch

from lvad.estimators import A2C, GRPO, RLOO, SCST, BestOfN, MinimumRisk, Reinforce, ScoredRollouts
from lvad.losses.policy_gradient import kl_k1, kl_k2_loss, kl_k3_loss, reinforce
from lvad.types import Rollouts

END = 2
# Two letters and an end, at most two tokens: 7 completions of different lengths.
COMPLETIONS = [(END,), *((a, b) for a in (0, 1) for b in (0, 1, END))]
TOKENS = torch.tensor([c if len(c) == 2 else (*c, 0) for c in COMPLETIONS])
MASK = torch.tensor([[True, len(c) == 2] for c in COMPLETIONS])
REWARDS = torch.tensor([3.0, 2.2, 3.5, 1.9, 4.1, 2.7, 3.3], dtype=torch.float64)


def make_theta(seed=0):
    return torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def token_logps(theta):
    """float[7, 2], the first token's law and that of the second given the first; 0 behind the end."""
    laws = theta.log_softmax(-1)
    first = laws[0][TOKENS[:, 0]]
    second = laws[1 + TOKENS[:, 0].clamp(max=1), TOKENS[:, 1]]
    return torch.stack([first, second.where(MASK[:, 1], 0.0)], 1)


def expected_reward_gradient(theta, rewards=REWARDS):
    return torch.autograd.grad((token_logps(theta).sum(1).exp() * rewards).sum(), theta)[0]


def gradients(make_estimator, theta, num_completions=3, rewards=REWARDS):
    """Probability and gradient (of the objective, so of minus the loss) for every group of K draws."""
    logps = token_logps(theta)
    greedy = rewards[logps.sum(1).argmax()]
    for group in itertools.product(range(len(COMPLETIONS)), repeat=num_completions):
        drawn = torch.tensor(group)
        group_logps, mask = logps[drawn][None], MASK[drawn][None]
        cut = torch.zeros(1, num_completions, dtype=torch.bool)
        rollouts = Rollouts(TOKENS[drawn][None], mask, group_logps.detach(), torch.zeros_like(mask.double()), cut, [])
        scored = ScoredRollouts(
            rewards[drawn][None],
            torch.tensor([True]),
            rollouts,
            states=lambda: torch.ones(1, 4),
            greedy_rewards=lambda: (greedy.view(1), torch.ones(1).bool()),
        )
        advantages = make_estimator().estimate(scored).advantages
        loss = reinforce(group_logps, advantages, mask)
        (grad,) = torch.autograd.grad(loss, theta, retain_graph=True)
        yield math.exp(group_logps.sum().item()), -grad


def mean_and_variance(make_estimator, theta, **options):
    pairs = list(gradients(make_estimator, theta, **options))
    mean = sum(p * g for p, g in pairs)
    return mean, sum(p * ((g - mean) ** 2).sum().item() for p, g in pairs)


def running_mean():
    estimator = Reinforce("running_mean")
    estimator.mean.fill_(2.4)
    return estimator


def warm_critic():
    torch.manual_seed(0)
    estimator = A2C(warmup_steps=0)
    estimator.prepare(4)
    torch.nn.init.normal_(estimator.critic[-1].weight)
    return estimator


def dr_grpo():
    return GRPO(scale_by_std=False, per_token=False)


@pytest.mark.parametrize(
    ("make_estimator", "factor"),
    [(Reinforce, 3), (running_mean, 3), (SCST, 3), (RLOO, 3), (warm_critic, 3), (dr_grpo, 2)],
)
def test_the_mean_over_all_groups_is_the_exact_gradient(make_estimator, factor):
    theta = make_theta()
    mean, _ = mean_and_variance(make_estimator, theta)
    torch.testing.assert_close(mean, factor * expected_reward_gradient(theta), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "make_estimator", [GRPO, lambda: GRPO(per_token=False), BestOfN, lambda: MinimumRisk(sharpness=1.0)]
)
def test_what_claims_no_unbiasedness_has_another_direction(make_estimator):
    theta = make_theta()
    mean, _ = mean_and_variance(make_estimator, theta)
    exact = expected_reward_gradient(theta)
    cosine = (mean * exact).sum() / (mean.norm() * exact.norm())
    assert cosine < 1 - 1e-3


def test_best_of_n_goes_to_the_law_of_the_best_of_k():
    """With F the distribution function of the reward, the best of K draws is y with F(y)^K - F(just below y)^K."""
    theta = make_theta()
    mean, _ = mean_and_variance(BestOfN, theta)
    logps = token_logps(theta).sum(1)
    p = logps.exp().detach()
    up_to = torch.stack([p[reward >= REWARDS].sum() for reward in REWARDS])
    below = torch.stack([p[reward > REWARDS].sum() for reward in REWARDS])
    (exact,) = torch.autograd.grad(((up_to**3 - below**3) * logps).sum(), theta)
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-13)


def test_variances_order_as_theory_says():
    """Where the greedy completion is not the mean: leave-one-out below self-critical below no baseline."""
    theta = make_theta()
    variance = {make: mean_and_variance(make, theta)[1] for make in (RLOO, SCST, Reinforce)}
    logps = token_logps(theta).sum(1)
    mean_reward = (logps.exp() * REWARDS).sum()
    assert abs(REWARDS[logps.argmax()] - mean_reward) > 0.25
    assert variance[RLOO] < variance[SCST] < variance[Reinforce]


@pytest.mark.parametrize("make_estimator", [RLOO, dr_grpo, lambda: GRPO(per_token=False), MinimumRisk])
def test_a_shift_of_all_rewards_changes_nothing(make_estimator):
    theta = make_theta()
    here = mean_and_variance(make_estimator, theta, num_completions=2)
    there = mean_and_variance(make_estimator, theta, num_completions=2, rewards=REWARDS + 50)
    torch.testing.assert_close(there[0], here[0], rtol=0, atol=1e-10)


def climb(loss_of_group, theta, steps=2000, lr=0.1):
    """Gradient ascent on the exact mean gradient over all pairs of draws."""
    optimizer = torch.optim.Adam([theta], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    pairs = torch.tensor(list(itertools.product(range(len(COMPLETIONS)), repeat=2)))
    for _ in range(steps):
        logps = token_logps(theta)[pairs]  # [49, 2, 2]: every pair is a scene
        weights = logps.detach().sum((1, 2)).exp()
        optimizer.zero_grad()
        loss_of_group(logps, MASK[pairs], REWARDS[pairs], weights, pairs).backward()
        optimizer.step()
        schedule.step()
    return token_logps(theta).detach().sum(1).exp()


@pytest.mark.parametrize("form", ["reward", pytest.param("k2", marks=pytest.mark.slow)])
def test_with_kl_the_policy_becomes_the_tilted_reference(form):
    """p_ref exp(r / beta) / Z, with the real losses, each pair weighted by its probability."""
    beta, ref = 0.7, token_logps(make_theta(5)).detach()
    ones = torch.ones(1, dtype=torch.bool)

    def loss_of_group(logps, mask, rewards, weights, pairs):
        ref_logps = ref[pairs]
        if form == "reward":
            rewards = rewards - beta * kl_k1(logps, ref_logps, mask)
        scored = ScoredRollouts(rewards, ones.expand(len(rewards)), None, states=None, greedy_rewards=None)
        advantages = RLOO().estimate(scored).advantages
        loss = reinforce(logps, advantages * weights[:, None], mask) * len(weights)
        if form == "k2":
            loss = loss + beta * sum(
                w * kl_k2_loss(logps[i : i + 1], ref_logps[i : i + 1], mask[i : i + 1]) for i, w in enumerate(weights)
            )
        return loss

    steps = {"reward": 2000, "k2": 400}[form]
    law = climb(loss_of_group, make_theta(), steps=steps)
    tilted = (ref.sum(1) + REWARDS / beta).softmax(0)
    torch.testing.assert_close(law, tilted, rtol=0, atol={"reward": 1e-6, "k2": 1e-3}[form])


def test_with_k3_the_optimum_is_another_one():
    """On one-token completions r + beta p_ref / pi is the same for all of them, and pi is not the tilted reference."""
    beta, rewards = 0.5, torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    ref = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    keep = torch.ones(1, 1, 1, dtype=torch.bool)
    for _ in range(1500):
        logps = theta.log_softmax(0)
        p = logps.detach().exp()
        penalties = torch.stack([kl_k3_loss(logps[y].view(1, 1, 1), ref[y].view(1, 1, 1), keep) for y in range(3)])
        optimizer.zero_grad()
        (-(p * rewards * logps).sum() + beta * (p * penalties).sum()).backward()
        optimizer.step()
        schedule.step()
    law = theta.detach().softmax(0)
    levels = rewards + beta * ref.exp() / law
    torch.testing.assert_close(levels, levels.mean().expand(3), rtol=0, atol=1e-5)
    assert (law - (ref + rewards / beta).softmax(0)).abs().max() > 0.02
